"""One call of a patched module: its arguments by name, and its computation for some rows only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from inspect import Parameter, signature
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from dqar.integration.engine.description import ByRow

PLACED = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@cache
def parameters_of(kind: type) -> tuple[str, ...]:
    """Names of the parameters of a module class's ``forward`` that may be given by place."""
    _, *parameters = signature(kind.forward).parameters.values()
    return tuple(one.name for one in parameters if one.kind in PLACED)


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteCall:
    """One call of a module whose ``forward`` is patched."""

    module: nn.Module
    """The module."""
    inner: Callable[..., Any]
    """The module's original ``forward``."""
    names: tuple[str, ...]
    """Names of the parameters of ``forward``."""
    args: tuple
    kwargs: dict[str, Any]
    num_rows: int
    """Rows of the transformer's call, of which the module's rows are a multiple."""

    def argument(self, name: str) -> Any:
        """Value of an argument, given by name or by place; None for one that was not given."""
        if name in self.kwargs:
            return self.kwargs[name]
        place = self.names.index(name) if name in self.names else len(self.args)
        return self.args[place] if place < len(self.args) else None

    @property
    def hidden(self) -> Tensor:
        """The module's first tensor, whose rows are those of all streams."""
        given = (*self.args, *self.kwargs.values())
        return next(value for value in given if isinstance(value, Tensor))

    @property
    def fold(self) -> int:
        """Rows of the module for each row of the transformer's call: frames or patches.

        Raises:
            ValueError: if the module's rows are not a multiple of the call's.
        """
        rows = len(self.hidden)
        if not self.num_rows or rows % self.num_rows:
            raise ValueError(
                "Rows of a patched module must be a multiple of the transformer's. Got "
                f"{rows} for {self.num_rows}. Reuse another site, or describe the family."
            )
        return rows // self.num_rows

    def computed(self) -> Any:
        """Compute the module for all rows."""
        return self.inner(*self.args, **self.kwargs)

    def of_rows(self, rows: Int[Tensor, " s"], by_row: ByRow) -> SiteCall | None:
        """Return the call with the arguments of some of the module's rows, or None if it is not
        known which arguments hold one value for each row.

        Args:
            by_row: the arguments that do.
        """
        if by_row is None or _couples_rows(self.module):
            return None
        gathered: dict[str, Any] = {}
        count = len(self.hidden)
        for name, value in self.named.items():
            if name in by_row or value is self.hidden:
                taken = _taken(value, rows, count)
                if taken is None and value is not None:
                    return None
                gathered[name] = taken
            elif _may_be_by_row(value, count):
                return None
        return self._with(gathered)

    @property
    def named(self) -> dict[str, Any]:
        """All given arguments by name; one without a name is named by its place."""
        places = (self.names + tuple(map(str, range(len(self.names), len(self.args)))))[
            : len(self.args)
        ]
        return dict(zip(places, self.args, strict=True)) | self.kwargs

    def _with(self, values: Mapping[str, Any]) -> SiteCall:
        args = tuple(
            values.get(name, value) for name, value in zip(self.named, self.args, strict=False)
        )
        kwargs = {name: values.get(name, value) for name, value in self.kwargs.items()}
        return replace(self, args=args, kwargs=kwargs)


def _couples_rows(module: nn.Module) -> bool:
    """True if an attention splits its batch into guidance branches by number of rows, as those of
    perturbed-attention guidance do."""
    attentions = (module, *module.children())
    return any("PAG" in type(getattr(one, "processor", None)).__name__ for one in attentions)


def _taken(value: Any, rows: Tensor, count: int) -> Any:
    """Return the rows of an argument: a tensor, or a tuple of tensors (rotary embeddings). None if
    it has another length."""
    if isinstance(value, (tuple, list)):
        taken = [_taken(one, rows, count) for one in value]
        return None if any(one is None for one in taken) else type(value)(taken)
    if not isinstance(value, Tensor):
        return None
    if value.ndim == 0 or len(value) == 1:
        return value  # one value for all rows
    return value[rows.to(value.device)] if len(value) == count else None


def _may_be_by_row(value: Any, count: int) -> bool:
    """True if an argument that is not declared holds a tensor with as many values as rows."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return any(_may_be_by_row(one, count) for one in value)
    return isinstance(value, Tensor) and value.ndim > 0 and count > 1 and len(value) == count
