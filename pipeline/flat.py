"""Nested settings as flat ones, for a tracker that knows no nesting."""

from __future__ import annotations

from typing import Any


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value under its dotted name. Example: ``{"a": {"b": 1}}`` gives ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
