"""What the gates look at, as pure functions: entropy, SNR, norms, drift."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def attention_entropy(
    query: Float[Tensor, "r h n e"],
    key: Float[Tensor, "r h m e"],
    *,
    scale: float | None = None,
    max_rows: int | None = None,
) -> Float[Tensor, " r"]:
    """Shannon entropy of softmax attention in nats, mean over heads and query rows.

    ``H_i = logsumexp_j(s_ij) - sum_j p_ij s_ij`` with ``s_ij = scale * q_i . k_j``: the entropy
    of the exact distribution (the seed's epsilon form differs from it by at most
    ``m * epsilon``). With ``max_rows`` a strided subset of query rows estimates the mean, so
    that no n x m map is formed.

    Args:
        scale: softmax scale; ``1 / sqrt(e)`` by default.
        max_rows: at most this many query rows.
    """
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    rows = _strided(query, max_rows).float()
    scores = scale * rows @ key.float().transpose(-1, -2)
    expected = (scores.softmax(dim=-1) * scores).sum(dim=-1)
    entropy = torch.logsumexp(scores, dim=-1) - expected
    return entropy.clamp_min(0.0).mean(dim=(1, 2))


def map_entropy(attention: Float[Tensor, "r h n m"]) -> Float[Tensor, " r"]:
    """Entropy of a materialised attention map in nats, mean over heads and query rows."""
    return torch.special.entr(attention.float()).sum(dim=-1).mean(dim=(1, 2))


def _strided(query: Tensor, max_rows: int | None) -> Tensor:
    num_rows = query.shape[2]
    if max_rows is None or num_rows <= max_rows:
        return query
    return query[:, :, :: -(-num_rows // max_rows)]


def scheduler_snr(scheduler: Any, timestep: float) -> float:
    """SNR of a diffusers scheduler at a timestep: ``alpha_bar / (1 - alpha_bar)``.

    Raises:
        ValueError: if the scheduler has no ``alphas_cumprod``.
    """
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        raise ValueError(
            f"scheduler must have alphas_cumprod. Got {type(scheduler).__name__}. "
            "Use a DDIM or DPM-Solver scheduler."
        )
    alpha = float(alphas[round(float(timestep))])
    return alpha / max(1.0 - alpha, 1e-12)


def cosine_snr(progress: float) -> float:
    """SNR of the talk's cosine schedule, ``alpha_bar = cos(pi/2 * progress)^2``."""
    alpha = math.cos(0.5 * math.pi * progress) ** 2
    return alpha / max(1.0 - alpha, 1e-12)


def log_norm(latent: Float[Tensor, "b *axes"]) -> Float[Tensor, " b"]:
    """Natural logarithm of each sample's L2 norm."""
    return latent.float().flatten(1).norm(dim=1).clamp_min(1e-12).log()


def relative_error(
    value: Float[Tensor, "r *axes"], reference: Float[Tensor, "r *axes"]
) -> Float[Tensor, " r"]:
    """``||value - reference|| / ||reference||`` per row."""
    distance = (value - reference).float().flatten(1).norm(dim=1)
    return distance / reference.float().flatten(1).norm(dim=1).clamp_min(1e-12)
