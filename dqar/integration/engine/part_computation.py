"""Computation of a patched module for the rows that a controller asks for."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from dqar.cache.site_tensors import Parts
from dqar.integration.engine.description import ByRow
from dqar.integration.engine.returned import Layout, rows_within
from dqar.integration.engine.site_call import SiteCall


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed:
    """The computed parts of a module, for the rows that were asked for."""

    layout: Layout
    """Form of what the module returned."""
    parts: Parts
    """Returned tensors of these rows."""
    num_rows: int
    """Rows for which the module was computed."""
    kept: Int[Tensor, " s"] | None
    """The rows asked for among the module's rows, where more had to be computed; else None."""


def computed_rows(
    call: SiteCall, rows: Int[Tensor, " s"] | None, by_row: ByRow, names: tuple[str, ...]
) -> Computed:
    """Compute a module for some rows of the transformer's call, or for all (None).

    Where the arguments of these rows cannot be gathered, all rows are computed and those rows kept.

    Args:
        by_row: arguments that hold one value for each row, the streams included.
        names: names of what the module returns.
    """
    within = None if rows is None else rows_within(rows, call.fold)
    gathered = call if within is None else call.of_rows(within, by_row)
    returned = (gathered or call).computed()
    layout = Layout.of(returned, names)
    parts = layout.parts(returned)
    num_rows = len((gathered or call).hidden)
    if within is None or gathered is not None:
        return Computed(layout=layout, parts=parts, num_rows=num_rows, kept=None)
    parts = {name: part[within] for name, part in parts.items()}
    return Computed(layout=layout, parts=parts, num_rows=num_rows, kept=within)
