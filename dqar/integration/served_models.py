"""Limits of planned models, and of wrappers whose guidance branches are declared.

Any transformer may be patched (:mod:`dqar.integration.sites`). A planned model has one path of code
for all rows, and serves DiT and PixArt; a declared batch stacks [cond; uncond] rows of samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dqar.integration.engine.lookup import OLDER

SERVED = ("DiTTransformer2DModel", "PixArtTransformer2DModel")
"""Classes of diffusers that a planned model may be made of."""
UNCONDITIONAL_FIRST = ("PixArtTransformer2DModel",)
"""Classes whose pipelines stack guidance branches as [uncond; cond]."""


def refuse_unserved(transformer: nn.Module) -> None:
    """Refuse a transformer of diffusers that no planned model can be made of.

    Raises:
        ValueError: naming the class, or the attention processor.
    """
    name = _class_of(transformer)
    if type(transformer).__module__.startswith("diffusers.") and name not in SERVED:
        raise ValueError(
            f"A planned model must be made of one of {', '.join(SERVED)}. Got {name}. Let a "
            "controller follow the plan: patch_pipeline(pipe, ...)."
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
