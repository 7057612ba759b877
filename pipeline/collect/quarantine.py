"""Quarantine of a collection: a file for each unit that was given up, until the unit is done.

It is the dead-letter queue of the collection: a unit that fails on every attempt is set aside with
its error, so that the remaining units are collected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pipeline.cluster.work_queue import WorkResult
from pipeline.errors import IncompleteError, InputError, StorageError
from pipeline.redaction import without_secrets
from pipeline.storage.object_store import Storage
from pipeline.traces.shards import as_json

FOLDER = "_quarantine"
HOPELESS = 3
"""Number of units given up, with none done, after which the remaining units are not tried."""
NAMED = 5
"""Most files that a message names."""


class Diverged(ArithmeticError):
    """Trajectories with NaN or infinity in their latents or their metrics."""


def quarantine_key(unit_id: str) -> str:
    """Return the storage key of the file that says why a unit was given up."""
    return f"{FOLDER}/{unit_id}.json"


def quarantine(storage: Storage, outcome: WorkResult) -> None:
    """Write the error of a unit that was given up; a file of an earlier run is overwritten.

    On a full disk, which may be why the unit was given up, the error is printed alone.
    """
    assert outcome.failure is not None
    document = {
        "unit_id": outcome.unit.unit_id,
        "trajectories": [outcome.unit.start, outcome.unit.stop],
        "attempts": outcome.attempts,
        "node": outcome.node,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "error": _last_line(outcome),
        "traceback": without_secrets(outcome.failure.text),
    }
    try:
        storage.write(quarantine_key(outcome.unit.unit_id), as_json(document))
    except StorageError as error:
        # The disk that is full for the unit is full for its file too; the unit is named at the end.
        print(
            f"collect: the error of unit {outcome.unit.unit_id} cannot be kept: {error} The error "
            f"is: {document['error']}",
            flush=True,
        )


def quarantined(storage: Storage) -> set[str]:
    """Return the ids of the units in quarantine."""
    return {name.removesuffix(".json") for name in storage.sizes(FOLDER)}


def release(storage: Storage, unit_ids: Iterable[str]) -> None:
    """Delete the quarantine files of units that are done now."""
    for unit_id in unit_ids:
        storage.delete(quarantine_key(unit_id))


def refuse_hopeless(given_up: Sequence[WorkResult], *, num_done: int, num_missing: int) -> None:
    """End a collection whose first :data:`HOPELESS` units, or all units if there are fewer, were
    given up, with no unit done.

    Args:
        num_done: units that have a receipt, those of earlier runs included.
        num_missing: units that this run has to collect.

    Raises:
        InputError: if all of these units diverged.
        IncompleteError: if any of them failed in another way.
    """
    if num_done or len(given_up) < min(HOPELESS, num_missing):
        return
    failures, line = [outcome.failure for outcome in given_up], _last_line(given_up[-1])
    if all(failure is not None and isinstance(failure.error, Diverged) for failure in failures):
        raise InputError(
            f"--model must sample without diverging. Got {len(failures)} units, all of which "
            f"diverged, the last one with the error: {line}. Pass another --dtype or "
            "--guidance-scale, or fix the weights."
        )
    raise IncompleteError(
        f"The first {len(failures)} units all failed, so the remaining units were not tried. Error "
        f"of the last one: {line}. Its traceback is in {FOLDER}/{given_up[-1].unit.unit_id}.json "
        "in the traces folder."
    )


def refuse_incomplete(storage: Storage, given_up: Sequence[WorkResult]) -> None:
    """Refuse to publish a dataset that lacks planned units.

    Raises:
        IncompleteError: naming the quarantine files of units that were given up.
    """
    if not given_up:
        return
    files = [f"{storage}/{quarantine_key(outcome.unit.unit_id)}" for outcome in given_up]
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    raise IncompleteError(
        f"{len(files)} units are quarantined and no manifest was published. Each attempt at these "
        "units failed; all other units are done. The errors are in "
        f"{', '.join(files[:NAMED])}{more}. Run the same command again to retry the quarantined "
        f"units. Error of the last one: {_last_line(given_up[-1])[:300]}"
    )


def _last_line(outcome: WorkResult) -> str:
    assert outcome.failure is not None
    lines = without_secrets(outcome.failure.text).strip().splitlines()
    return lines[-1].strip() if lines else repr(outcome.failure.error)
