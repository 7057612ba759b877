"""Document of a lease, and what its state tells another driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.storage.json_schema import Count
from pipeline.traces.process_id import Process


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseDocument:
    """JSON of a lease's file."""

    token: str
    """Random text of its own, by which a holder knows its file."""
    state: Literal["held", "released"]
    renewals: Count
    since: str
    """Time of its creation by the holder's clock, in ISO 8601."""
    holder: Process

    @property
    def is_over(self) -> bool:
        """True if the lease was released or its holder has certainly ended."""
        return self.state == "released" or self.holder.is_gone


def advice_on(document: LeaseDocument | None) -> str:
    """Return what to do after another driver has taken over, by what is known about it."""
    again = "run this command again: it continues from what is done"
    if document is None:
        return f"Its lease cannot be read: once no other driver runs, {again}."
    if document.state == "released":
        return f"The second driver has ended: {again}."
    if document.holder.is_gone:
        return f"The second driver has died since: {again}."
    if document.holder.is_here:
        return "The second driver is alive: leave it to finish."
    return (
        "The second driver held its lease when it was last seen; this machine cannot tell if it is "
        f"alive. Leave it to finish, or {again}, and takes over if it is dead."
    )


def who_holds(document: LeaseDocument | None) -> str:
    """Return words for the holder of a lease; None is a lease that does not read."""
    if document is None:
        return "an unknown driver"
    holder = document.holder
    return f"process {holder.pid} on {holder.host[:60]!r} since {document.since[:30]!r}"
