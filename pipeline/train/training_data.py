"""Data of one training, from one handle of the traces and one pass over their gates."""

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
"""Every fifth noise sample is held out; trajectories of one noise sample stay together."""
LOCAL_ROWS = 2**19
"""Gates that a fit of one-step errors draws from; of more, as many at random."""
HELD_OUT_LOCAL_ROWS = 2**14
"""Gates that such a fit is validated on."""
Mask: TypeAlias = Bool[Tensor, " trajectories"]
"""Some of the trajectories."""
Subset: TypeAlias = Literal["usable", "fitted", "held_out"]
"""Names of the masks of a :class:`Split`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Trajectories to learn from, and the noise samples among them that are held out."""

    usable: Mask
    """Trajectories to learn from."""
    fitted: Mask
    """The usable ones that the first fit sees."""
    held_out: Mask
    """The usable ones that validate the first fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Everything that a training takes from the gates."""

    gates: StoredGates
    """Reused gates of all trajectories."""
    max_gap: int
    """Largest staleness that the policy knows, in steps."""
    snrs: list[float]
    """Signal-to-noise ratio of each step."""
    propensity_test: PropensityTest
    """Test of the logged propensities against the logged actions."""
    local_errors: Mapping[Subset, StoredLocalGates]
    """Random gates with their one-step errors, for the fits that learn from these."""


def split_trajectories(traces: Traces, config: TrainConfig, setting: ReuseSetting) -> Split:
    """Split the trajectories by noise sample. A policy that plans learns from all of them, one
    that decides step by step from those of one setting.

    Raises:
        InputError: if fewer than two noise samples are left.
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
    """Mask of the trajectories of one forecast order and one gain of error feedback."""
    table = traces.trajectories
    order = table["forecast_order"].to_numpy() == setting[0]
    gain = table["feedback"].to_numpy() == np.float32(setting[1])
    return torch.tensor(order & gain)


def read_training_data(
    traces: Traces, config: TrainConfig, sites: tuple[str, ...], split: Split, folder: Path
) -> TrainingData:
    """Read the gates once; rows that a fit needs go to files in a folder.

    One pass is enough, as the trajectories of every fit are known before it: they follow from the
    table of trajectories alone. Each random sample has its own generator, so that its draws are
    the same whichever other samples are drawn beside it.

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
        # For the alternative schedules.
        limits = {"usable": LOCAL_ROWS}
    seed = config.fit_config().seed
    return {
        name: LocalErrorSampler(getattr(split, name), config.names, sites, limit=limit, seed=seed)
        for name, limit in limits.items()
    }
