"""The returned tensors of a patched module as named parts, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from dqar.cache.site_tensors import Parts


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The form of what a module returns."""

    names: tuple[str | None, ...]
    """Name of each returned tensor; None where the module returned None."""
    is_tuple: bool

    @classmethod
    def of(cls, returned: Any, names: tuple[str, ...]) -> Layout:
        """Find the form of a returned tensor or tuple.

        Args:
            names: declared names; further tensors are named by their places.

        Raises:
            ValueError: if the module returned anything but tensors and None.
        """
        values = returned if isinstance(returned, tuple) else (returned,)
        if not all(value is None or isinstance(value, Tensor) for value in values):
            kinds = ", ".join(type(value).__name__ for value in values)
            raise ValueError(
                f"A site must return tensors. Got {kinds}. Reuse another site of this model."
            )
        named = (*names, *(f"output{place}" for place in range(len(names), len(values))))
        found = zip(named, values, strict=False)
        return cls(
            names=tuple(name if value is not None else None for name, value in found),
            is_tuple=isinstance(returned, tuple),
        )

    def parts(self, returned: Any) -> Parts:
        """Return the tensors by name."""
        values = returned if self.is_tuple else (returned,)
        found = zip(self.names, values, strict=True)
        return {name: value for name, value in found if name is not None}

    def rebuilt(self, parts: Mapping[str, Tensor]) -> Any:
        """Return tensors in the form in which the module returned them."""
        values = tuple(None if name is None else parts[name] for name in self.names)
        return values if self.is_tuple else values[0]


def folded(part: Float[Tensor, "rf *axes"], fold: int) -> Float[Tensor, "r *joined"]:
    """Join the frames or patches of each row of the transformer's call: ``[r * f, n, ...]`` to
    ``[r, f * n, ...]``."""
    return part if fold == 1 else part.unflatten(0, (-1, fold)).flatten(1, 2)


def unfolded(part: Float[Tensor, "r *joined"], fold: int) -> Float[Tensor, "rf *axes"]:
    """Undo :func:`folded`."""
    return part if fold == 1 else part.unflatten(1, (fold, -1)).flatten(0, 1)


def rows_within(rows: Int[Tensor, " s"], fold: int) -> Int[Tensor, " sf"]:
    """Return the module's rows of some rows of the transformer's call."""
    if fold == 1:
        return rows
    offsets = rows.new_tensor(range(fold))
    return (rows[:, None] * fold + offsets).flatten()
