"""Numbers as the report shows them."""

from __future__ import annotations


def shown_error(error: float) -> str:
    """Format an error: four decimals, or two digits of a smaller one."""
    return f"{error:.4f}" if error == 0 or abs(error) >= 0.001 else f"{error:.2g}"


def shown_interval(interval: tuple[float, float]) -> str:
    """Format an interval of errors: ``[0.0023, 0.0037]``."""
    return f"[{shown_error(interval[0])}, {shown_error(interval[1])}]"


def shown_ratio(ratio: float) -> str:
    """Format a FLOPs ratio: ``1.97x``."""
    return f"{ratio:.2f}x"
