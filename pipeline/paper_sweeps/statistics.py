"""One point of a sweep: what was set, what each run gave, and what the runs come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.statistics import Spread, spread_of

T = TypeVar("T")


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
