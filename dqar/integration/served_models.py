"""Models that may be patched: those of which reuse is known to be right, and models of the user.

Other transformers of diffusers have sites of the same names, but their rows are not samples, their
attention rotates queries and keys, or their guidance is not two stacked branches: reuse would be
silently wrong. A class from outside diffusers is taken to stack [cond; uncond] rows of samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

SERVED = ("DiTTransformer2DModel", "PixArtTransformer2DModel")
"""Classes of diffusers that may be patched."""
OLDER = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
"""Class whose models diffusers once saved as ``Transformer2DModel``, by ``norm_type``."""
UNCONDITIONAL_FIRST = ("PixArtTransformer2DModel",)
"""Classes whose pipelines stack guidance branches as [uncond; cond]."""


def refuse_unserved(transformer: nn.Module) -> None:
    """Refuse a transformer of diffusers on which reuse is not known to be right.

    Raises:
        ValueError: naming the class, or the attention processor.
    """
    name = _class_of(transformer)
    if type(transformer).__module__.startswith("diffusers.") and name not in SERVED:
        raise ValueError(
            f"The model must be one of {', '.join(SERVED)}. Got {name}, on which reuse has not "
            "been made right yet. Pass a served model."
        )
    refuse_third_branch(transformer)


def refuse_third_branch(transformer: nn.Module) -> None:
    """Refuse a transformer with perturbed-attention guidance.

    Raises:
        ValueError: naming the attention processor.
    """
    for module in transformer.modules():
        processor = type(getattr(module, "processor", None)).__name__
        if "PAG" in processor:
            raise ValueError(
                "Guidance must have one or two branches. Got a third one, perturbed-attention "
                f"guidance ({processor}). Disable PAG."
            )


def refuse_branch_order(transformer: nn.Module, cross_branch_threshold: float | None) -> None:
    """Refuse a cross-branch threshold for a model that stacks [uncond; cond].

    Raises:
        ValueError: since the conditional rows would take the unconditional values.
    """
    name = _class_of(transformer)
    if cross_branch_threshold is not None and name in UNCONDITIONAL_FIRST:
        raise ValueError(
            "cross_branch_threshold must come with a model that stacks [cond; uncond]. Got "
            f"{name}, whose pipelines stack [uncond; cond]. Leave cross_branch_threshold out."
        )


def refuse_branches(num_branches: int) -> None:
    """Refuse numbers of guidance branches other than one and two.

    Raises:
        ValueError: naming the number.
    """
    if num_branches not in (1, 2):
        raise ValueError(
            f"num_branches must be 1 or 2. Got {num_branches}. Sample without the third branch."
        )


def refuse_checkpointing(transformer: nn.Module) -> None:
    """Refuse to reuse under gradient checkpointing.

    Raises:
        ValueError: since the backward pass would compute the blocks again, outside their step.
    """
    if torch.is_grad_enabled() and getattr(transformer, "gradient_checkpointing", False):
        raise ValueError(
            "Reuse must compute each block once a step. Got gradient checkpointing, whose backward "
            "pass computes it again. Sample under torch.no_grad(), or call "
            "transformer.disable_gradient_checkpointing()."
        )


def _class_of(transformer: Any) -> str:
    name = type(transformer).__name__
    if name != "Transformer2DModel":
        return name
    norm_type = getattr(getattr(transformer, "config", None), "norm_type", None)
    return OLDER.get(str(norm_type), f"{name} with norm_type {norm_type!r}")
