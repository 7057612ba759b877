"""Masks of the steps of a timed run that reuse every gate; the first step fills the cache."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor


def forced_steps(ratio: float, num_steps: int) -> list[bool]:
    """Reuse a share of the timed steps, spread evenly over them.

    Raises:
        ValueError: if ``ratio`` of ``num_steps`` is no whole number of steps.
    """
    reused = ratio * num_steps
    if not 0.0 <= ratio <= 1.0 or abs(reused - round(reused)) > 1e-9:
        raise ValueError(
            f"ratio must be in [0, 1] and of whole steps. Got {ratio} of {num_steps} steps. "
            f"Pass a multiple of {1 / num_steps:g}."
        )
    due = [math.floor(ratio * step + 1e-9) for step in range(num_steps + 1)]
    return [after > before for before, after in itertools.pairwise(due)]


def interval_steps(period: int, num_steps: int) -> list[bool]:
    """Reuse all timed steps except every ``period``-th.

    Raises:
        ValueError: if ``num_steps`` is no multiple of ``period``.
    """
    if period < 1 or num_steps % period:
        raise ValueError(
            f"num_steps must hold whole periods. Got {num_steps} of {period}. "
            f"Pass a multiple of {period}."
        )
    return [(step + 1) % period != 0 for step in range(num_steps)]


def mask_of(steps: Sequence[bool], num_gates: int, num_samples: int) -> Bool[Tensor, "t g b"]:
    """Expand steps to every gate and sample, behind a first step that computes."""
    reuse = torch.tensor([False, *steps], dtype=torch.bool)
    return reuse[:, None, None].expand(len(reuse), num_gates, num_samples)


def ratio_of_mask(mask: Bool[Tensor, "t g b"]) -> float:
    """Reuse ratio of a mask over its timed steps."""
    return mask[1:].double().mean().item()
