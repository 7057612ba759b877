"""Data of one training, read in one pass over the gate table of the traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from dqar.step_schedule import ReuseSetting
from pipeline.errors import InputError
from pipeline.traces.dataset import Traces
from pipeline.train.config import TrainConfig
from pipeline.train.gate_accumulators import StalenessCounts, StepSnrs, scan_gates
from pipeline.train.gate_table import StoredGates
from pipeline.train.local_error_sample import LocalErrorSampler, StoredLocalGates
from pipeline.train.propensity_test import PropensitySums, PropensityTest
from pipeline.train.reused_gate_writer import ReusedGateWriter

HELD_OUT_SHARE = 5
"""One in this many noise samples is held out, with all its trajectories."""
LOCAL_ROWS = 2**19
"""Most gates in the random sample that a fit of one-step errors learns from."""
HELD_OUT_LOCAL_ROWS = 2**14
"""Most gates in the random sample that validates a fit of one-step errors."""
Mask: TypeAlias = Bool[Tensor, " trajectories"]
"""Mask over the trajectories of the traces."""
Subset: TypeAlias = Literal["usable", "fitted", "held_out"]
"""Names of the masks of a :class:`Split`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Masks of the trajectories to learn from, split by noise sample."""

    usable: Mask
    """Trajectories to learn from."""
    fitted: Mask
    """Usable trajectories that the trial fit learns from."""
    held_out: Mask
    """Usable trajectories that validate the trial fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Data that a training reads from the gate table."""

    gates: StoredGates
    """Reused gates of all trajectories."""
    max_gap: int
    """Largest staleness, in steps, at which the policy may reuse."""
    snrs: list[float]
    """Signal-to-noise ratio of each sampling step."""
    propensity_test: PropensityTest
    """Test of the logged propensities against the logged actions."""
    local_errors: Mapping[Subset, StoredLocalGates]
    """Random samples of gates with their one-step errors, by the part of the split."""


def split_trajectories(traces: Traces, config: TrainConfig, setting: ReuseSetting) -> Split:
    """Split the trajectories by noise sample.

    A policy that plans whole runs learns from all trajectories; a policy that decides step by step
    learns from those with its forecast order and gain.

    Args:
        traces: opened traces.
        config: settings of the training.
        setting: forecast order and gain of a policy that decides step by step.

    Raises:
        InputError: if either part of the split would be empty.
    """
    noise = torch.from_numpy(traces.noise_index)
    everything = torch.ones_like(noise) > 0
    usable = everything if config.plans else matching_trajectories(traces, setting)
    is_held_out = noise % HELD_OUT_SHARE == 0
    split = Split(usable=usable, fitted=usable & ~is_held_out, held_out=usable & is_held_out)
    if not split.held_out.any() or not split.fitted.any():
        raise InputError(
            f"--traces must hold at least two noise samples. Got {int(noise.max()) + 1}, with "
            f"{int(usable.sum())} trajectories to learn from. Collect more trajectories."
        )
    return split


def matching_trajectories(traces: Traces, setting: ReuseSetting) -> Mask:
    """Return the mask of the trajectories with one forecast order and one gain."""
    table = traces.trajectories
    order = table["forecast_order"].to_numpy() == setting[0]
    gain = table["feedback"].to_numpy() == np.float32(setting[1])
    return torch.tensor(order & gain)


def read_training_data(
    traces: Traces, config: TrainConfig, sites: tuple[str, ...], split: Split, folder: Path
) -> TrainingData:
    """Read the gate table once and write the rows that the fits need to files.

    One pass is enough, since the split of the trajectories needs no gates. Each random sample has
    its own generator, so that its draws do not depend on the other samples.

    Args:
        traces: opened traces.
        config: settings of the training.
        sites: sites to learn.
        split: trajectories of each fit.
        folder: existing folder for the files.

    Raises:
        InputError: if no gate reused.
    """
    staleness, snrs, propensities = StalenessCounts(), StepSnrs(), PropensitySums(traces)
    samplers = _samplers(config, sites, split)
    with ReusedGateWriter(traces, config.names, sites, folder) as writer:
        scan_gates(traces, writer, staleness, snrs, propensities, *samplers.values())
    return TrainingData(
        gates=writer.stored(),
        max_gap=staleness.max_gap(traces),
        snrs=snrs.snrs(),
        propensity_test=propensities.test(),
        local_errors={
            name: sampler.store(folder / f"local-{name}.npy") for name, sampler in samplers.items()
        },
    )


def _samplers(
    config: TrainConfig, sites: tuple[str, ...], split: Split
) -> dict[Subset, LocalErrorSampler]:
    limits: dict[Subset, int] = {}
    if config.label == "local":
        limits = {"fitted": LOCAL_ROWS, "held_out": HELD_OUT_LOCAL_ROWS, "usable": LOCAL_ROWS}
    elif config.plans:
        # The alternative schedules need a fit on one-step errors.
        limits = {"usable": LOCAL_ROWS}
    seed = config.fit_config().seed
    return {
        name: LocalErrorSampler(getattr(split, name), config.names, sites, limit=limit, seed=seed)
        for name, limit in limits.items()
    }
