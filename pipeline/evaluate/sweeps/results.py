"""Results of a sweep: each point with the figures of its runs, and the spread of the figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.statistics import Spread, spread_of

Row = dict[str, Any]
"""Figures of one point in one run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """Measured point: the figures of each run."""

    setting: dict[str, Any]
    """Names and values of the varied settings, the same keys in every point of a sweep."""
    runs: tuple[dict[str, Any], ...]
    """Figures of each run, the same keys in each run."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Figures that do not differ between runs."""

    @property
    def name(self) -> str:
        """Setting in one line, such as ``scenario=dqar threshold=1.5``."""
        parts = (
            f"{key}={shown(value)}" for key, value in self.setting.items() if value is not None
        )
        return " ".join(parts)

    def figures(self) -> dict[str, Spread]:
        """Return the spread of every figure that is a number in all runs."""
        columns = {key: [run[key] for run in self.runs] for key in self.runs[0]}
        return {
            key: spread_of(values)
            for key, values in columns.items()
            if all(isinstance(value, int | float) for value in values)
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Finished sweep."""

    kind: str
    """Kind of sweep, as on the command line."""
    config: dict[str, Any]
    """Settings of the sweep."""
    facts: dict[str, Any]
    """Figures observed once for the whole sweep."""
    points: list[Swept]


def shown(value: Any) -> str:
    """Return the text that a table shows for a setting."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
