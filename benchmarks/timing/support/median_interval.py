"""Names and rounding of medians and their intervals in the results of benchmarks."""

from __future__ import annotations


def figures_of(name: str, spread: dict[str, float]) -> dict[str, float | list[float]]:
    """Median as ``name`` and interval as ``name_ci95``, to four significant digits."""
    low, high = (to_digits(spread[end]) for end in ("low", "high"))
    return {name: to_digits(spread["median"]), f"{name}_ci95": [low, high]}


def to_digits(value: float, digits: int = 4) -> float:
    """Round to significant digits."""
    return float(f"{value:.{digits}g}")
