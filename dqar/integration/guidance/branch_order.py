"""The order in which the pipelines of a transformer stack two guidance branches.

The rows of a batch show how many branches it holds, but not which is which. Only sharing of values
between the branches (``cross_branch_threshold``) and the prompt's length depend on it.
"""

from __future__ import annotations

from torch import nn

from dqar.control.branch_sharing import CONDITIONAL, UNCONDITIONAL

CONDITIONAL_FIRST = ("DiTTransformer2DModel", "ZImageTransformer2DModel")
UNCONDITIONAL_FIRST = (
    "AllegroTransformer3DModel",
    "CogVideoXTransformer3DModel",
    "HunyuanDiT2DModel",
    "LTXVideoTransformer3DModel",
    "LatteTransformer3DModel",
    "MochiTransformer3DModel",
    "PixArtTransformer2DModel",
    "SD3Transformer2DModel",
    "SanaTransformer2DModel",
)


def branch_order(transformer: nn.Module) -> tuple[str, ...]:
    """Names of two stacked branches in the order of diffusers' pipelines; empty if unknown."""
    name = type(transformer).__name__
    if name in CONDITIONAL_FIRST:
        return CONDITIONAL, UNCONDITIONAL
    return (UNCONDITIONAL, CONDITIONAL) if name in UNCONDITIONAL_FIRST else ()


def require_order(branches: tuple[str, ...]) -> None:
    """Refuse a declared order that does not name both branches.

    Raises:
        ValueError: naming the branches given.
    """
    if branches and set(branches) != {CONDITIONAL, UNCONDITIONAL}:
        raise ValueError(
            f"branches must be 'cond' and 'uncond' in their order in the batch. Got {branches}. "
            "Pass ('uncond', 'cond'), or leave branches out."
        )
