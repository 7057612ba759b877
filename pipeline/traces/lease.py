"""Lease of an output folder, so that one driver at a time writes there.

A lease is a lock that expires unless its holder renews it (Gray and Cheriton, *Leases*, SOSP
1989). Leases are numbered, and a driver acquires the next number by creating the file of that
number. The number is a fencing token (Kleppmann, *Designing Data-Intensive Applications*, 2017,
chapter 8): a holder that finds a higher number has been replaced, and stops before its next
publication. Storage only has to be able to create a file that does not exist. The holder renews by
rewriting its file. An observer takes a lease for dead if the file has not changed for
``patience_s`` by the observer's own clock, so that no clock of another machine is trusted.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import InputError
from pipeline.storage.json_schema import Malformed, check, parse
from pipeline.storage.object_store import Root, Storage, open_storage
from pipeline.traces.lease_document import LeaseDocument, advice_on, who_holds
from pipeline.traces.process_id import this_process
from pipeline.traces.shards import as_json

NUMBERED = re.compile(r"([0-9]{6,})\.json")
LARGEST_NUMBER = 10**12
"""Number that no lease reaches: a million new drivers a day would take thousands of years."""
TRIES = 100
"""Leases that other drivers may take, one after the other, before a driver gives up."""
LEASE_BYTES = 1 << 16
"""Largest size of a lease's document in bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseConfig:
    """Time after which a silent driver is taken for dead."""

    patience_s: float = 30.0
    """Seconds of the observer's clock after which a lease that was not renewed is dead. A holder
    renews its lease every third of this time."""

    def __post_init__(self) -> None:
        if not 0 < self.patience_s < 86400:
            raise ValueError(
                f"patience_s must lie between 0 and a day. Got {self.patience_s}. Pass 30."
            )


def lease_config() -> LeaseConfig:
    """Read the lease's time-out in seconds from ``DQAR_LEASE_S``.

    Raises:
        InputError: if it is not a number between 0 and a day.
    """
    text = os.environ.get("DQAR_LEASE_S", "30")
    try:
        return LeaseConfig(patience_s=float(text))
    except ValueError as error:
        raise InputError(
            f"DQAR_LEASE_S must be a number of seconds between 0 and a day. Got {text!r}. Unset "
            "it to use 30."
        ) from error


class Lease:
    """Lease of a folder that this process holds; :func:`acquire_lease` renews it in a thread."""

    def __init__(self, storage: Storage, number: int, document: LeaseDocument) -> None:
        self.number = number
        self._storage = storage
        self._document = document
        self._ended = threading.Event()

    def check_not_fenced(self) -> None:
        """Refuse to continue if another driver has taken over. Call this before anything is
        published or deleted.

        Raises:
            InputError: naming the other driver.
        """
        newest = _newest(self._storage)
        if newest > self.number:
            other = _read(self._storage, newest)
            raise InputError(
                f"{self._storage} must have one driver. Got a second, {who_holds(other)}, which "
                f"took this driver for dead and replaced its lease {self.number} by lease "
                f"{newest}. This driver publishes and deletes nothing more. {advice_on(other)}"
            )

    def renew_every(self, seconds: float) -> None:
        """Renew the lease until it ends or another driver has taken over."""
        while not self._ended.wait(seconds):
            # Storage may answer again by the next renewal; check_not_fenced guards publication.
            with contextlib.suppress(InputError):
                if _newest(self._storage) > self.number:
                    return
                self._write(renewals=self._document.renewals + 1)

    def stop_renewing(self) -> None:
        """End the loop of :meth:`renew_every`."""
        self._ended.set()

    def release(self) -> None:
        """End the lease, so that the next driver can start at once."""
        self.stop_renewing()
        with contextlib.suppress(InputError):
            self._write(state="released")

    def _write(self, **changes: Any) -> None:
        self._document = replace(self._document, **changes)
        self._storage.write(_key(self.number), as_json(asdict(self._document)))


@contextmanager
def acquire_lease(root: Root, config: LeaseConfig | None = None) -> Iterator[Lease]:
    """Hold a folder's lease during a ``with`` block, once no other driver is alive.

    Args:
        root: the folder.
        config: patience; None reads ``DQAR_LEASE_S``.

    Raises:
        InputError: naming the other driver, if it is alive.
    """
    config = config or lease_config()
    lease = take(open_storage(root), config)
    renewing = threading.Thread(
        target=lease.renew_every, args=(config.patience_s / 3,), name="lease", daemon=True
    )
    renewing.start()
    try:
        yield lease
    finally:
        # A renewal under way would undo the release.
        lease.stop_renewing()
        renewing.join()
        lease.release()


def take(storage: Storage, config: LeaseConfig) -> Lease:
    """Create the next lease, once the newest one is released or dead.

    Raises:
        InputError: if the holder of the newest lease is alive.
    """
    for _ in range(TRIES):
        number = _newest(storage)
        if number:
            _outlast(storage, number, config.patience_s)
        mine = _new_document()
        is_created = storage.create(_key(number + 1), as_json(asdict(mine)))
        # A retried request may find the file that its first, unanswered try created.
        if is_created or _token(_read(storage, number + 1)) == mine.token:
            return Lease(storage, number + 1, mine)
    raise InputError(
        f"{storage} must let a driver create a lease. Got {TRIES} leases that others created "
        f"first, up to {_key(_newest(storage))}. Wait until they have ended, and run the command "
        "again."
    )


def _new_document() -> LeaseDocument:
    return LeaseDocument(
        token=uuid.uuid4().hex,
        state="held",
        renewals=0,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        holder=this_process(),
    )


def _token(document: LeaseDocument | None) -> str | None:
    return document.token if document else None


def _outlast(storage: Storage, number: int, patience_s: float) -> None:
    """Wait until a lease is released or dead.

    Raises:
        InputError: if the lease's file changes, which shows that its holder is alive.
    """
    seen = _read(storage, number)
    if seen is not None and seen.holder.is_here and not seen.is_over:
        raise _refusal(storage, seen)
    deadline = time.monotonic() + patience_s
    if not _is_over(seen):
        print(
            f"{storage} has an unreleased lease of {who_holds(seen)}; waiting {patience_s:g} s to "
            "see if that driver is alive",
            flush=True,
        )
    while not _is_over(seen) and time.monotonic() < deadline:
        time.sleep(min(1.0, patience_s / 20))
        now = _read(storage, number)
        if now is not None and now != seen and not now.is_over:
            raise _refusal(storage, now)
        seen = now


def _refusal(storage: Storage, document: LeaseDocument) -> InputError:
    return InputError(
        f"{storage} must have one driver. Got a second while {who_holds(document)} still writes "
        "there. Wait until that process has ended, or end it, and run this command again."
    )


def _is_over(document: LeaseDocument | None) -> bool:
    return document is not None and document.is_over


def _key(number: int) -> str:
    return f"_lease/{number:06d}.json"


def _newest(storage: Storage) -> int:
    """Return the largest number of a lease, of whatever kind its file is; 0 if there is none.

    Raises:
        InputError: if that number is none that a driver gave.
    """
    found = (NUMBERED.fullmatch(name) for name in storage.names("_lease"))
    newest = max((int(match[1]) for match in found if match), default=0)
    if newest >= LARGEST_NUMBER:
        raise InputError(
            f"{storage}/_lease must hold leases with numbers below 10^12. Got "
            f"{str(newest)[:20]}, which no driver wrote. Move that file aside, then run the "
            "command again."
        )
    return newest


def _read(storage: Storage, number: int) -> LeaseDocument | None:
    """Read a lease's document; None if it is not valid, so that its holder is unknown.

    Raises:
        StorageError: if the lease is a folder, a pipe, a link to nothing or a large file.
    """
    try:
        return check(parse(storage.read(_key(number), LEASE_BYTES) or b""), LeaseDocument)
    except Malformed:
        return None
