"""Traces: what collections wrote, for readers of their tables.

The functions here are for notebooks and other programs. Each opens the dataset anew; a stage opens
it once with :func:`pipeline.traces.multi_dataset.open_traces` and passes the handle on. Arrow is
imported at the first call, so that the other modules of this package can do without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.traces.dataset import Traces
    from pipeline.traces.multi_dataset import TraceUris
    from pipeline.traces.tables import Batch, Table


def read_trajectories(uri: TraceUris) -> Table:
    """All trajectories, one row each, in the order of the plan; of several datasets, those of the
    first first."""
    return _opened(uri).trajectories


def read_gates(uri: TraceUris, columns: list[str] | None = None) -> Table:
    """All gates, or some of their columns, in memory; joins with the trajectories on
    ``trajectory_id``."""
    return _opened(uri).read_gates(columns)


def stream_gates(
    uri: TraceUris, columns: list[str] | None = None, *, only_reused: bool = False
) -> Iterator[Batch]:
    """Gates in batches of rows, shard after shard, in bounded memory.

    Args:
        only_reused: leave out the gates that computed.
    """
    return _opened(uri).stream_gates(columns, only_reused=only_reused)


def _opened(uri: TraceUris) -> Traces:
    from pipeline.traces.multi_dataset import open_traces

    return open_traces(uri)
