"""FLOPs of the transformer and of what a method adds; a multiply-add counts as two."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dqar.policy import ReusePolicy
from pipeline.models import LoadedModel


def transformer_flops(model: LoadedModel) -> float:
    """FLOPs of one forward of one row, matrix products as torch counts them."""
    device, dtype = model.transformer.device, model.transformer.dtype
    latent = torch.zeros(1, *model.card.latent_shape, device=device, dtype=dtype)
    label = torch.zeros(1, dtype=torch.long, device=device)
    # The counter knows no fused CPU kernel; the plain one is a pair of products it can see.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.transformer(latent, timestep=label, class_labels=label)
    return float(counter.get_total_flops())


def policy_flops(policy: ReusePolicy) -> float:
    """FLOPs of one gate's prediction."""
    weights = sum(value.numel() for value in policy.parameters() if value.ndim == 2)
    return 2.0 * weights


def entropy_flops(num_rows: int, num_tokens: int, width: int) -> float:
    """FLOPs of one sampled entropy: the scores of some query rows and their expectation."""
    return 2.0 * min(num_rows, num_tokens) * num_tokens * width
