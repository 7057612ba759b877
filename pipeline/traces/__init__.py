"""Trace datasets: the tables that collections wrote, and functions that read them.

The functions here are for notebooks and other programs. Each call opens and checks the dataset
again; a stage opens the dataset once with :func:`pipeline.traces.multi_dataset.open_traces` and
passes the handle on. Arrow is imported at the first call, so that importing the package or its
other modules does not need Arrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.traces.dataset import Traces
    from pipeline.traces.multi_dataset import TraceUris
    from pipeline.traces.tables import Batch, Table


def read_trajectories(uri: TraceUris) -> Table:
    """Read all trajectories, one row each, in the order of the plan; several datasets follow each
    other in the order given."""
    return _opened(uri).trajectories


def read_gates(uri: TraceUris, columns: list[str] | None = None) -> Table:
    """Read the gates table, or some of its columns, into memory.

    Each row is one reuse decision; rows join the trajectories table on ``trajectory_id``.
    """
    return _opened(uri).read_gates(columns)


def stream_gates(
    uri: TraceUris, columns: list[str] | None = None, *, only_reused: bool = False
) -> Iterator[Batch]:
    """Yield the gates table in batches of rows, shard after shard, in bounded memory.

    Args:
        columns: names of the columns to read; None for all.
        only_reused: leave out the rows of gates that computed.
    """
    return _opened(uri).stream_gates(columns, only_reused=only_reused)


def _opened(uri: TraceUris) -> Traces:
    from pipeline.traces.multi_dataset import open_traces

    return open_traces(uri)
