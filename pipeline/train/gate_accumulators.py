"""One pass over the gate table of a dataset for several accumulators.

A gate is one (step, layer, site, sample) of a collected trajectory: one row of the table. Each
:class:`GateAccumulator` names the columns that it needs and receives blocks of whole trajectories,
so that its memory does not grow with the number of gates.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import numpy as np

from pipeline.errors import InputError
from pipeline.traces.dataset import Traces
from pipeline.traces.trajectory_stream import GateBlock

MAX_GAP_QUANTILE = 0.995
"""Quantile of the staleness in the traces up to which the policy may reuse. Larger staleness was
explored too rarely to be learned."""


@runtime_checkable
class GateAccumulator(Protocol):
    """Reader of the gate table that needs one pass."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the gate table that :meth:`add` reads."""
        ...

    def add(self, block: GateBlock) -> None:
        """Process the gates of some trajectories."""
        ...


def scan_gates(traces: Traces, *accumulators: GateAccumulator) -> None:
    """Read the gate table once and pass every block to every accumulator."""
    columns = dict.fromkeys(name for one in accumulators for name in one.columns)
    for block in traces.whole_trajectories(list(columns)):
        for accumulator in accumulators:
            accumulator.add(block)


def reused(block: GateBlock) -> np.ndarray:
    """Return the mask of the gates that reused."""
    return block.columns["action"] != "compute"


class StalenessCounts:
    """Counts of the staleness of reused gates: the steps since the site computed."""

    columns = ("action", "log_gap")

    def __init__(self) -> None:
        self._counts: dict[float, int] = {}

    def add(self, block: GateBlock) -> None:
        """Count the reused gates of a block by staleness."""
        gaps, counts = np.unique(block.columns["log_gap"][reused(block)], return_counts=True)
        for gap, count in zip(gaps.tolist(), counts.tolist(), strict=True):
            self._counts[gap] = self._counts.get(gap, 0) + count

    def max_gap(self, traces: Traces) -> int:
        """Return the largest staleness, in steps, at which a policy may reuse.

        It is the quantile :data:`MAX_GAP_QUANTILE` of the staleness.

        Args:
            traces: dataset that was counted, for the error message.

        Raises:
            InputError: if no gate reused.
        """
        if not self._counts:
            raise InputError(
                f"--traces must hold decisions to reuse. Got none in {traces}. Collect more "
                "trajectories, or with --exploration paced."
            )
        return round(float(np.exp(_quantile(self._counts, MAX_GAP_QUANTILE))))


def _quantile(counts: dict[float, int], q: float) -> float:
    """Return a quantile of values with counts, interpolated linearly as by ``np.quantile``."""
    # np.quantile would need the values repeated, one for each gate: with weights it knows only the
    # method inverted_cdf, which does not interpolate.
    values = sorted(counts)
    upto = np.cumsum([counts[value] for value in values])
    place = q * (upto[-1] - 1)
    ranks = np.floor(place), np.ceil(place)
    low, high = (values[int(np.searchsorted(upto, rank, side="right"))] for rank in ranks)
    return low + (high - low) * (place - ranks[0])


class StepSnrs:
    """Signal-to-noise ratio of each sampling step, as logged in the gate table.

    All gates of a step have the same value, which follows from the sampler's timestep.
    """

    columns = ("step", "log_snr")

    def __init__(self) -> None:
        self._log_snr: dict[int, float] = {}

    def add(self, block: GateBlock) -> None:
        """Read the steps of a block."""
        steps, first = np.unique(block.columns["step"], return_index=True)
        values = block.columns["log_snr"][first]
        self._log_snr.update(zip(steps.tolist(), values.tolist(), strict=True))

    def snrs(self) -> list[float]:
        """Return the signal-to-noise ratios in the order of the steps."""
        return [math.exp(self._log_snr[step]) for step in sorted(self._log_snr)]
