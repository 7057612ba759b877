"""Results of a sweep: each point with the figures of its runs, and their spread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.statistics import Spread, spread_of

Row = dict[str, Any]
"""Figures of one point in one run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """One point with the figures of each run."""

    setting: dict[str, Any]
    """Values that tell it from the other points, the same keys in every point of a sweep."""
    runs: tuple[dict[str, Any], ...]
    """Figures of each run, the same keys in each."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Figures that do not differ between runs."""

    @property
    def name(self) -> str:
        """The setting in one line."""
        parts = (
            f"{key}={shown(value)}" for key, value in self.setting.items() if value is not None
        )
        return " ".join(parts)

    def figures(self) -> dict[str, Spread]:
        """The spread of every figure that is a number in all runs."""
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
    """Figures observed once for the whole sweep."""
    points: list[Swept]


def shown(value: Any) -> str:
    """A setting as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
