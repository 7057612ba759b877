"""One pass over the gates of a dataset for several readers, and the small statistics among them.

Each reader is a :class:`GateAccumulator`: it names the columns that it needs, and is given blocks
of whole trajectories. Its memory does not follow the number of gates.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import numpy as np

from pipeline.errors import InputError
from pipeline.traces.dataset import Traces
from pipeline.traces.trajectory_stream import GateBlock

MAX_GAP_QUANTILE = 0.995
"""Staleness seen more rarely than this in exploration is unknown to the policy."""


@runtime_checkable
class GateAccumulator(Protocol):
    """A reader of gates that needs each of them once."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table of gates that :meth:`add` reads."""
        ...

    def add(self, block: GateBlock) -> None:
        """Take in the gates of some trajectories."""
        ...


def scan_gates(traces: Traces, *accumulators: GateAccumulator) -> None:
    """Read the gates once, and give every block of them to every accumulator."""
    columns = dict.fromkeys(name for one in accumulators for name in one.columns)
    for block in traces.whole_trajectories(list(columns)):
        for accumulator in accumulators:
            accumulator.add(block)


def reused(block: GateBlock) -> np.ndarray:
    """Mask of the gates that did not compute."""
    return block.columns["action"] != "compute"


class StalenessCounts:
    """Counts of how stale reused gates were."""

    columns = ("action", "log_gap")

    def __init__(self) -> None:
        self._counts: dict[float, int] = {}

    def add(self, block: GateBlock) -> None:
        """Count the reused gates of a block by their staleness."""
        gaps, counts = np.unique(block.columns["log_gap"][reused(block)], return_counts=True)
        for gap, count in zip(gaps.tolist(), counts.tolist(), strict=True):
            self._counts[gap] = self._counts.get(gap, 0) + count

    def max_gap(self, traces: Traces) -> int:
        """The :data:`MAX_GAP_QUANTILE` of the staleness, in steps: the largest that a policy may
        be said to know.

        Args:
            traces: what was counted, for the message.

        Raises:
            InputError: if nothing reused.
        """
        if not self._counts:
            raise InputError(
                f"--traces must hold gates that reused. Got none in {traces}. Collect more "
                "trajectories, or with --exploration paced."
            )
        return round(float(np.exp(_quantile(self._counts, MAX_GAP_QUANTILE))))


def _quantile(counts: dict[float, int], q: float) -> float:
    """Quantile of values that are given by their counts, linear between neighbours as NumPy's."""
    values = sorted(counts)
    upto = np.cumsum([counts[value] for value in values])
    place = q * (upto[-1] - 1)
    ranks = np.floor(place), np.ceil(place)
    low, high = (values[int(np.searchsorted(upto, rank, side="right"))] for rank in ranks)
    return low + (high - low) * (place - ranks[0])


class StepSnrs:
    """Signal-to-noise ratio of each step, as the gates logged it.

    All gates of a step log the same value: it belongs to the sampler's time step.
    """

    columns = ("step", "log_snr")

    def __init__(self) -> None:
        self._log_snr: dict[int, float] = {}

    def add(self, block: GateBlock) -> None:
        """Take in the steps of a block."""
        steps, first = np.unique(block.columns["step"], return_index=True)
        values = block.columns["log_snr"][first]
        self._log_snr.update(zip(steps.tolist(), values.tolist(), strict=True))

    def snrs(self) -> list[float]:
        """The ratios, in the order of the steps."""
        return [math.exp(self._log_snr[step]) for step in sorted(self._log_snr)]
