"""Refusal of settings that are NaN or infinite: such a value would change a result silently."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def require_finite(record: Any, *fields: str) -> None:
    """Refuse a record one of whose fields holds NaN or an infinite number.

    Args:
        record: a dataclass; None in a field counts as finite.
        fields: names of fields with a number, or with numbers in a tuple or a dictionary.

    Raises:
        ValueError: naming the first such field.
    """
    for name in fields:
        value = getattr(record, name)
        if not all(map(math.isfinite, _numbers(value))):
            raise ValueError(f"{name} must be finite. Got {value}. Pass a finite number.")


def _numbers(value: Any) -> Iterable[float]:
    if value is None:
        return ()
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, tuple) else (value,)
