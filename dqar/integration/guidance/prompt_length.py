"""Number of prompt tokens of each sample, from the masks or the embeddings of a call."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dqar.control.branch_sharing import CONDITIONAL
from dqar.control.step_control import CLASS_PROMPT_LENGTH
from dqar.integration.guidance.model_call import ModelCall

MASKS = (
    "encoder_attention_mask",
    "encoder_hidden_states_mask",
    "text_embedding_mask",
    "prompt_attention_mask",
)
"""Names of the parameters that take a mask of prompt tokens, ``[r, n]``, 1 where a token is."""
EMBEDDINGS = ("encoder_hidden_states", "cap_feats")
"""Names of the parameters that take embeddings of the prompt's tokens, ``[r, n, d]``."""


def prompt_lengths(
    call: ModelCall, num_samples: int, branches: tuple[str, ...]
) -> int | Float[Tensor, " b"]:
    """Tokens of the prompt of each sample; 16 without a prompt, as for class labels.

    Padding counts where no mask tells it from the prompt. Of several branches that are stacked in
    the batch, the conditional one counts; if ``branches`` does not name it, the longest.
    """
    lengths = _by_row(call.arguments)
    if lengths is None or len(lengths) != call.rows:
        return CLASS_PROMPT_LENGTH
    by_branch = lengths.view(-1, num_samples)
    if CONDITIONAL in branches:
        return by_branch[branches.index(CONDITIONAL)]
    return by_branch.amax(dim=0)


def _by_row(arguments: dict[str, Any]) -> Float[Tensor, " r"] | None:
    for name in MASKS:
        mask = arguments.get(name)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            return (mask > 0).sum(dim=1).float().cpu()
    for name in EMBEDDINGS:
        embeddings = arguments.get(name)
        if isinstance(embeddings, list) and all(one.ndim == 2 for one in embeddings):
            return torch.tensor([float(len(one)) for one in embeddings])
        if isinstance(embeddings, Tensor) and embeddings.ndim == 3:
            return torch.full((len(embeddings),), float(embeddings.shape[1]))
    return None
