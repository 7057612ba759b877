"""Find the family of a transformer by the name of its class, or by its data flow."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from torch import nn

from dqar.integration.engine.data_flow import found_family
from dqar.integration.engine.description import Family

FAMILIES = "dqar.integration.families"
"""Package whose files describe the families."""
OLDER = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
"""Class whose models diffusers once saved as ``Transformer2DModel``, by ``norm_type``."""


@cache
def known_families() -> dict[str, Family]:
    """Families by class name, read from the files of :mod:`dqar.integration.families`."""
    families = import_module(FAMILIES)
    found: dict[str, Family] = {}
    for module in iter_modules(families.__path__):
        found |= import_module(f"{families.__name__}.{module.name}").FAMILIES
    return found


def register_family(class_name: str, family: Family) -> None:
    """Describe the transformers of a class by a family, in place of the one that is known."""
    known_families()[class_name] = family


def family_of(transformer: nn.Module) -> Family:
    """Return the family of a transformer: that of its class or of the nearest base class, that of
    its blocks, or for an unknown class the stacks that are found in it.

    Raises:
        ValueError: if nothing like a stack of blocks is found.
    """
    known = known_families()
    for name in class_names(transformer):
        if name in known:
            return known[name]
    return found_family(transformer)


def class_names(transformer: Any) -> Iterator[str]:
    """Names under which the family of a transformer may be known, the nearest first."""
    for kind in type(transformer).__mro__:
        yield kind.__name__
    if type(transformer).__name__ == "Transformer2DModel":
        yield OLDER.get(str(transformer.config.norm_type), "")
    blocks: Any = getattr(transformer, "transformer_blocks", None) or [None]
    if type(blocks[0]).__name__ == "BasicTransformerBlock":
        # A model of the user that is made of diffusers' blocks of a DiT.
        is_of_user = not type(transformer).__module__.startswith("diffusers.")
        yield OLDER.get(str(blocks[0].norm_type), "") if is_of_user else ""
