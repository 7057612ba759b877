"""Guidance branches that are stacked in one batch: their number, found by rows that repeat."""

from __future__ import annotations

import torch
from torch import Tensor

from dqar.integration.guidance.model_call import Latent, equal


def count_branches(latent: Latent, num_samples: int | None = None) -> int:
    """Number of guidance branches in a batch: how often its samples repeat, branch after branch.

    Samples of equal noise also repeat. ``num_samples``, where it is known, tells them apart from
    branches; otherwise they count as branches of one sample, and are decided together.

    Waits for the device once.
    """
    rows = len(latent)
    periods = [period for period in range(1, rows + 1) if rows % period == 0]
    repeats = _repeating(latent, periods)
    if num_samples in repeats:
        return rows // num_samples
    return rows // repeats[0] if repeats else 1


def _repeating(latent: Latent, periods: list[int]) -> list[int]:
    """The periods, shortest first, after which all rows repeat."""
    if not isinstance(latent, Tensor):
        return [period for period in periods if equal(latent[period:], latent[:-period])]
    proper = periods[:-1]
    found = [(latent[period:] == latent[:-period]).all() for period in proper]
    told = torch.stack(found).tolist() if found else []
    return [period for period, is_so in zip(proper, told, strict=True) if is_so] + periods[-1:]
