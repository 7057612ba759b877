"""Operating point to ship at one saving, with the comparison behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.report.equal_flops import Estimate
from pipeline.report.rows import ReportRow
from pipeline.statistics import Spread

Verdict = Literal["better", "tie", "worse"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The operating point to ship at one saving.

    The best learned point near the saving is compared with the best other method that needs no
    more FLOPs. The learned point is shipped unless the other method has the smaller error.
    """

    target: float
    """FLOPs ratio that is asked for."""
    row: ReportRow | None
    """Operating point to ship; None if no method was measured near the saving."""
    compared: ReportRow | None
    """The best learned point near the saving; without any, the best point of all methods."""
    is_learned: bool
    """True if :attr:`compared` is of a learned method."""
    has_policy: bool
    """True if a learned method was measured, near the saving or elsewhere."""
    other: Estimate | None
    """The best other method at the FLOPs of :attr:`compared`, or with fewer; None without any."""
    difference: Spread | None
    """Error of :attr:`compared` minus that of :attr:`other`, paired by sample; None for results
    without the error of each sample."""
    verdict: Verdict | None
    """:attr:`compared` against :attr:`other`: a tie if the interval of the difference holds 0 or,
    without paired errors, if the two intervals overlap or are missing. None without another."""
    command: str | None
    """Command that samples with :attr:`row`; None if jobs/sample.py has none for its method."""

    @property
    def ships_compared(self) -> bool:
        """True if :attr:`row` is :attr:`compared`, False if it is of the other method."""
        return self.row is self.compared
