"""Computation of a patched module for the rows that a controller asks for."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor

from dqar.cache.site_tensors import Parts
from dqar.integration.engine.description import ByRow
from dqar.integration.engine.returned import Layout, rows_within
from dqar.integration.engine.site_call import SiteCall


def computed_rows(
    call: SiteCall, rows: Int[Tensor, " s"] | None, by_row: ByRow, names: tuple[str, ...]
) -> tuple[Layout, Parts]:
    """Compute a module for some rows of the transformer's call, or for all (None).

    Where the arguments of these rows cannot be gathered, all rows are computed and those rows kept.

    Args:
        by_row: arguments that hold one value for each row, the streams included.
        names: names of what the module returns.
    """
    if rows is None:
        returned = call.computed()
        layout = Layout.of(returned, names)
        return layout, layout.parts(returned)
    within = rows_within(rows, call.fold)
    gathered = call.of_rows(within, by_row)
    returned: Any = (call if gathered is None else gathered).computed()
    layout = Layout.of(returned, names)
    parts = layout.parts(returned)
    if gathered is None:
        parts = {name: part[within] for name, part in parts.items()}
    return layout, parts
