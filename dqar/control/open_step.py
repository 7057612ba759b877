"""The open step of a controller: inputs, decisions, and the executor that carries them out."""

from __future__ import annotations

from dataclasses import dataclass

from dqar.control.entry_state import NEVER, EntryState
from dqar.control.site_execution import SiteExecutor
from dqar.control.step_log import StepLog
from dqar.records import DecisionReason, GateInputs


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenStep:
    """The open step of one run; a controller drops it when it closes the step."""

    inputs: GateInputs
    """Inputs of the step's decisions."""
    codes: list[list[int]]
    """Reasons of the decisions on the host, by gate and sample."""
    log: StepLog
    """Events of the step so far."""
    executor: SiteExecutor
    """Executor of the step's decisions."""
    entries: EntryState
    """State of the run's entries at the start of the step."""

    @property
    def is_closed(self) -> bool:
        """True if every gate refused with ``CLOSED``, as in a run that never reuses."""
        return all(code == DecisionReason.CLOSED for codes in self.codes for code in codes)

    def stack_without_exit(self) -> int | None:
        """Return the first layer of a stack of blocks that the finished step entered and no call of
        the run has left; None if there is none.

        A single branch may leave out the last block (skip-layer guidance); it then computes.
        """
        for key, gate in self.executor.asked.items():
            is_left = (self.entries.committed_at[gate] != NEVER).any()
            if key.site == "stack" and not is_left:
                return key.layer
        return None
