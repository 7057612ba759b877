"""Find the family of a transformer by the name of its class."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from torch import nn

from dqar.integration.engine.description import Family

FAMILIES = "dqar.integration.families"
"""Package whose files describe the families."""


@cache
def known_families() -> dict[str, Family]:
    """Families by class name, read from the files of :mod:`dqar.integration.families`."""
    families = import_module(FAMILIES)
    found: dict[str, Family] = {}
    for module in iter_modules(families.__path__):
        found |= import_module(f"{families.__name__}.{module.name}").FAMILIES
    return found


def family_of(transformer: nn.Module) -> Family:
    """Return the family of a transformer: that of its class, or of the nearest base class."""
    known = known_families()
    for kind in type(transformer).__mro__:
        if kind.__name__ in known:
            return known[kind.__name__]
    if hasattr(transformer, "transformer_blocks"):
        return known["DiTTransformer2DModel"]
    raise ValueError(
        f"The model must have transformer_blocks. Got {type(transformer).__name__}. "
        "Pass a diffusers transformer such as DiTTransformer2DModel."
    )
