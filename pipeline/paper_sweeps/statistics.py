"""One point of a sweep: what was set, what each run gave, and what the runs come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """What a figure's runs come to. Example: runs 9, 10, 11 have mean 10, std 1, CI [7.5, 12.5]."""

    mean: float
    std: float | None
    """Sample standard deviation (n - 1); None for a single run."""
    ci95: tuple[float, float] | None
    """95% confidence interval of the mean by Student's t; None for a single run."""
    count: int
    """Runs."""

    @property
    def half_width(self) -> float:
        """Half of the confidence interval; 0 where there is none."""
        return 0.0 if self.ci95 is None else (self.ci95[1] - self.ci95[0]) / 2.0


def spread_of(values: Sequence[int | float]) -> Spread:
    """Mean, standard deviation and confidence interval over runs.

    Raises:
        ValueError: without a value.
    """
    if not values:
        raise ValueError("values must hold at least one run. Got none. Pass one a run.")
    count, mean = len(values), statistics.fmean(values)
    if count == 1:
        return Spread(mean=mean, std=None, ci95=None, count=1)
    # Exact: equal runs have a spread of 0, not of a rounding error.
    std = float(statistics.stdev(values))
    half = _student_t(count - 1) * std / math.sqrt(count)
    return Spread(mean=mean, std=std, ci95=(mean - half, mean + half), count=count)


def _student_t(freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.5 + CONFIDENCE / 2.0, freedom))


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """One point with its raw numbers."""

    setting: dict[str, Any]
    """What distinguishes it, the same keys in every point of a sweep."""
    runs: tuple[dict[str, Any], ...]
    """What each run gave, the same keys in each."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What does not differ between runs."""

    @property
    def name(self) -> str:
        """The setting in one line."""
        parts = (
            f"{key}={shown(value)}" for key, value in self.setting.items() if value is not None
        )
        return " ".join(parts)

    def figures(self) -> dict[str, Spread]:
        """The spread of every number that all runs have."""
        columns = {key: [run[key] for run in self.runs] for key in self.runs[0]}
        return {
            key: spread_of(values)
            for key, values in columns.items()
            if all(isinstance(value, int | float) for value in values)
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A finished sweep."""

    kind: str
    config: dict[str, Any]
    facts: dict[str, Any]
    """What was observed once for the whole sweep."""
    points: list[Swept]


def rotated(items: Sequence[T], run: int) -> list[T]:
    """The order of a run: another item goes first in each, so that none always follows a rest.

    Example: ``rotated("abc", 1) == ["b", "c", "a"]``.
    """
    start = run % len(items)
    return [*items[start:], *items[:start]]


def shown(value: Any) -> str:
    """A setting as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
