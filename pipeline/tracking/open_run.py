"""Note of the runs that a command creates, in its output folder from before their creation until
the stage's run has ended.

A server that dies while it creates a run may have created it without having answered. The next
start therefore has to know the keys beforehand: it takes runs of the same command in which nothing
is logged yet as its own, and ends all others as killed.
"""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Literal

from pipeline.storage.json_schema import Malformed, check, parse
from pipeline.storage.object_store import Storage
from pipeline.tracking.pending import OPEN_RUN, remove_folder

Role = Literal["pipeline", "stage"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenRun:
    """Runs of a command that are created or about to be."""

    claim: str = ""
    """Digest of the command's settings."""
    pipeline: str = ""
    """Key of the pipeline's run; empty if it was made by an earlier stage."""
    stage: str = ""
    """Key of the stage's run."""
    run: str = ""
    """Id of the stage's run, once it may hold more than its name."""

    @property
    def names(self) -> list[str]:
        """Keys and ids of runs that may be open."""
        return [name for name in (self.pipeline, self.run or self.stage) if name]


class OpenRunNote:
    """The note of one command.

    Args:
        storage: output folder; None for a command without one, whose keys are not kept.
        claim: digest of the command's settings.
    """

    def __init__(self, storage: Storage | None, claim: str) -> None:
        self._storage = storage
        earlier = OpenRun() if storage is None else _read(storage)
        is_own = earlier.claim == claim and not earlier.run
        self._now = earlier if is_own else OpenRun(claim=claim)
        self.abandoned = [] if is_own else earlier.names
        """Keys and ids of the runs of an earlier command that was killed or had other settings."""

    def key_of(self, role: Role) -> str:
        """Return the key of a run that is about to be created, once it is kept."""
        if not (key := getattr(self._now, role)):
            key = uuid.uuid4().hex
            self._write(replace(self._now, **{role: key}))
        return key

    def begin(self, run_id: str) -> None:
        """Say that the stage's run is created and logged to."""
        self._write(replace(self._now, run=run_id))

    def remove(self) -> None:
        """Delete the note: the stage's run has ended, or its end is kept."""
        self._now = OpenRun(claim=self._now.claim)
        if self._storage is not None:
            self._storage.delete(OPEN_RUN)
            remove_folder(self._storage)

    def _write(self, now: OpenRun) -> None:
        self._now = now
        if self._storage is not None:
            self._storage.write(OPEN_RUN, json.dumps(asdict(now)).encode())


def _read(storage: Storage) -> OpenRun:
    # A damaged note costs a run that stays open, and must not stop the work.
    with suppress(Malformed):
        return check(parse(storage.read(OPEN_RUN) or b"{}"), OpenRun)
    return OpenRun()
