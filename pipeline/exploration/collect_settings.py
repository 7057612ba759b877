"""Settings that the flags of a collection and its plan share. Imports nothing heavy, so that
``--help`` is fast."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.models.sampling_choices import Dtype

EXPLORATION = "paced"
"""Designs of a collection. ``paced`` draws schedules like those that planning chooses from;
docs/results.md compares the designs."""
UNIT_SIZE = 48
"""Trajectories of a unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectSettings:
    """Settings that the flags of a collection and its plan share."""

    num_trajectories: int = 512
    """Number of trajectories with randomised reuse; their reference samples, which reuse nothing,
    are not counted."""
    dtype: Dtype = "fp32"
    """Floating-point format of the model's arithmetic."""
    seed: int = 0
    """Random seed of the noise samples and of the reuse decisions."""
