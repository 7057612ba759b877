"""Calls of the model within one step, where a pipeline calls it once for each guidance branch.

All calls of a step share its decisions. Each branch has separate entries (``EntryKey.branch``) and
separate error feedback.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from dqar.control.error_feedback import ErrorFeedback, Gain
from dqar.records import STACKED


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchCall:
    """The current call of the model."""

    branch: str = STACKED
    """Guidance branch that is called; ``STACKED`` if one call holds all branches."""
    num_rows: int | None = None
    """Rows of the call's batch; None if they never change."""
    is_continued: bool = True
    """True if the step before called this branch with as many rows, so that its entries are as old
    as the gates count them. A call that is not continued computes everything."""


class BranchCalls:
    """Steps at which each branch was called last, and with how many rows."""

    def __init__(self) -> None:
        self.current = BranchCall()
        self._last: dict[str, tuple[int, int | None]] = {}

    def begin(self, branch: str, step: int, num_rows: int | None, *, is_new: bool = False) -> None:
        """Begin the call of a branch within a step; ``is_new`` drops the branch's earlier calls."""
        is_continued = not is_new and self._last.get(branch) == (step - 1, num_rows)
        self._last[branch] = (step, num_rows)
        self.current = BranchCall(branch=branch, num_rows=num_rows, is_continued=is_continued)


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchFeedback:
    """Error feedback of each branch of a run."""

    gain: Gain
    """Gain of all branches."""
    by_branch: dict[str, ErrorFeedback] = field(default_factory=dict)

    @property
    def is_on(self) -> bool:
        """True if any gain is above 0."""
        return bool(torch.as_tensor(self.gain).any())

    @property
    def nbytes(self) -> int:
        """Bytes of the stored outputs."""
        return sum(one.nbytes for one in self.by_branch.values())

    def through(
        self, call: BranchCall, output: Float[Tensor, "r *axes"], share: Float[Tensor, " b"]
    ) -> Float[Tensor, "r *axes"]:
        """Return the corrected output of one call; see :meth:`ErrorFeedback.through`."""
        if call.branch not in self.by_branch or not call.is_continued:
            self.by_branch[call.branch] = ErrorFeedback(self.gain)
        return self.by_branch[call.branch].through(output, share)
