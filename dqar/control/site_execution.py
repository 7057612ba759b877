"""Execution of a step's decisions at one site: compute rows, or read them from the cache.

The decisions were taken when the step began; this module carries them out and updates the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dqar.cache.cache import CachedValue
from dqar.cache.forecast_coefficients import Coefficients, ManualForecastHistory, StepCoefficients
from dqar.cache.history import History
from dqar.cache.site_tensors import Compute, Fresh, Parts, parts_error
from dqar.control.branch_calls import BranchCalls
from dqar.control.branch_sharing import CONDITIONAL, UNCONDITIONAL, BranchRows
from dqar.control.step_log import Rows, StepLog, rows_that_compute
from dqar.records import DecisionReason, EntryKey


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteExecutor:
    """The executor of one step's decisions, called once for each site of the model."""

    history: History
    step_log: StepLog
    codes: list[list[int]]
    """Reasons of the decisions on the host, by gate and sample."""
    branches: BranchRows
    needs: frozenset[str]
    """The features of :data:`dqar.gates.base.MEASURED` that are measured."""
    shares_branches: bool
    """True if the distance between guidance branches is measured."""
    exposure: bool
    """Collection mode: every site computes, and the decision selects only the value that the
    sampler sees."""
    step: int
    """Index of the step in the run."""
    calls: BranchCalls
    """Calls of the model by guidance branch."""
    coefficients: StepCoefficients | None
    """Coefficients of the step's forecasts; None if reuse shows cached values unchanged."""
    by_hand: ManualForecastHistory
    """Steps at which entries under manual control were computed."""
    rows_of: dict[tuple[int, ...], Rows] = field(default_factory=dict)
    """Rows that compute, by the number of rows of the call (a branch may have a call of fewer) and
    the reasons of a gate; gates with equal reasons share them."""
    served: set[EntryKey] = field(default_factory=set)
    """Entries whose module ran in this step."""
    asked: dict[EntryKey, int] = field(default_factory=dict)
    """Gates of the entries that were asked for in this step."""

    def commit(
        self, key: EntryKey, gate: int, parts: Parts, entropy: Float[Tensor, " r"] | None
    ) -> None:
        """Cache the parts that one branch computed under manual control."""
        if entropy is not None:
            self.step_log.measure("entropy", gate, entropy, None)
        self.history.store(key, parts, self.by_hand.coefficients(key, self.step))
        self.by_hand.note(key, self.step)
        if self.shares_branches and self._follows(gate, key.branch):
            other = self.history.read(EntryKey(key.site, key.layer, CONDITIONAL))
            self.step_log.note_branch_gap(gate, parts_error(parts, other), None)
        self.step_log.mark_committed(gate, None, key.branch)

    def hand_out(self, entry: EntryKey, gate: int) -> CachedValue:
        """Return the forecast of an entry under manual control; if the entry names a lender, the
        value that the lending branch computed in this step."""
        key = EntryKey(entry.site, entry.layer, entry.branch)
        if entry.lender is None:
            self.step_log.mark_reused(gate, entry.branch)
        else:
            lender = EntryKey(entry.site, entry.layer, entry.lender)
            self.history.lend(lender, key)
            self.by_hand.lend(lender, key)
            self.step_log.mark_committed(gate, None, entry.branch)
        return self.history.fetch(key, self.by_hand.coefficients(key, self.step))

    def is_lent(self, gate: int, branch: str) -> bool:
        """True if an unconditional branch under manual control may take over the value that the
        conditional branch committed in this step."""
        everyone_shares = set(self.codes[gate]) == {int(DecisionReason.SHARED)}
        return everyone_shares and self._follows(gate, branch)

    def _follows(self, gate: int, branch: str) -> bool:
        return branch == UNCONDITIONAL and CONDITIONAL in self.step_log.branches_committed(gate)

    def through(self, key: EntryKey, gate: int, compute: Compute) -> Parts:
        """Return the parts of one site for the whole batch, each row computed or reused.

        Raises:
            ValueError: if the site ran already in this call of the model.
        """
        if key in self.served:
            raise ValueError(
                "A module must run once in each call of the model. Got a second run of the site "
                f"{key.site} of layer {key.layer}. Reuse a site that runs once."
            )
        self.asked[key] = gate
        parts = self._served(key, gate, compute)
        self.served.add(key)
        return parts

    def _served(self, key: EntryKey, gate: int, compute: Compute) -> Parts:
        # A branch whose calls leave out blocks (skip-layer guidance) may lack entries of others.
        if not self.calls.current.is_continued or key not in self.history:
            return self._computed(key, gate, compute)
        if self.exposure:
            return self._expose(key, gate, compute)
        codes = set(self.codes[gate])
        if DecisionReason.REUSE in codes:
            self.step_log.mark_reused(gate, key.branch)
            return self._shown(key, gate) if len(codes) == 1 else self._mix(key, gate, compute)
        if DecisionReason.SHARED in codes:
            return self._mix(key, gate, compute)
        return self._computed(key, gate, compute)

    def _computed(self, key: EntryKey, gate: int, compute: Compute) -> Parts:
        fresh = compute(None)
        self._enter(key, gate, fresh, None)
        return fresh.parts

    def _coefficients(self, gate: int) -> Coefficients | None:
        if self.coefficients is None:
            return None
        return Coefficients(step=self.coefficients, gate=gate)

    def _shown(self, key: EntryKey, gate: int) -> Parts:
        """Read the cached parts of all rows, as forecasts if the step has coefficients."""
        return self.history.read(key, self._coefficients(gate))

    def _mix(self, key: EntryKey, gate: int, compute: Compute) -> Parts:
        cached = self._shown(key, gate)
        rows = self._rows(gate, next(iter(cached.values())))
        fresh, donors = self._compute(gate, compute, rows)
        self._enter(key, gate, fresh, rows, donors)
        return {
            name: part.index_copy(0, rows.rows_at, fresh.parts[name])
            for name, part in cached.items()
        }

    def _rows(self, gate: int, value: Tensor) -> Rows:
        """Return the rows that compute; gates with equal decisions share one result."""
        decided = (len(value), *self.codes[gate])
        if decided not in self.rows_of:
            reuse = self.step_log.decision.reuse[gate]
            self.rows_of[decided] = rows_that_compute(reuse, len(value), value.device)
        return self.rows_of[decided]

    def _compute(self, gate: int, compute: Compute, rows: Rows) -> tuple[Fresh, Tensor | None]:
        """Compute the given rows. With branch sharing and forecasts, also return for each row the
        row whose value it took."""
        if DecisionReason.SHARED not in self.codes[gate]:
            return compute(rows.rows_at), None
        shared = self.step_log.decision.reason[gate] == DecisionReason.SHARED
        computed, place = self.branches.donors(rows.rows, shared).unique(return_inverse=True)
        computed_at, place_at = (index.to(rows.rows_at.device) for index in (computed, place))
        fresh = compute(computed_at).take(place_at)
        return fresh, None if self.coefficients is None else computed_at[place_at]

    def _expose(self, key: EntryKey, gate: int, compute: Compute) -> Parts:
        if key not in self.history:
            return self._computed(key, gate, compute)
        fresh = compute(None)
        cached = self._shown(key, gate)
        error = parts_error(cached, fresh.parts)
        self.step_log.note_local_error(gate, error)
        self.step_log.mark_reused(gate, key.branch)
        reuse = self.step_log.decision.reuse[gate]
        sees_cached = reuse.repeat(len(error) // len(reuse)).to(error.device, non_blocking=True)
        seen = _seen(cached, fresh.parts, sees_cached)
        rows = self._rows(gate, error)
        if len(rows.rows):
            self._enter(key, gate, fresh.take(rows.rows_at), rows)
        return seen

    def _enter(
        self,
        key: EntryKey,
        gate: int,
        fresh: Fresh,
        rows: Rows | None,
        donors: Int[Tensor, " r"] | None = None,
    ) -> None:
        """Measure and cache the computed parts of some rows, or of all (None).

        Args:
            donors: for each row, the row whose value it took; itself by default. The differences
                are taken from the donor's history: from the row's own history they would contain
                the distance between the branches.
        """
        if fresh.entropy is not None:
            self.step_log.measure("entropy", gate, fresh.entropy, rows)
        if "log_drift" in self.needs and key in self.history:
            self._measure_against_cache("drift", key, gate, fresh, rows)
        rows_at = None if rows is None else rows.rows_at
        self.history.store(key, fresh.parts, self._coefficients(gate), rows_at, donors)
        if "quant_error" in self.needs:
            self._measure_against_cache("quant_error", key, gate, fresh, rows)
        if self.shares_branches and self.branches.has_both:
            self.step_log.note_branch_gap(gate, self.branches.distance(fresh.parts), rows)
        self.step_log.mark_committed(gate, rows, key.branch)

    def _measure_against_cache(
        self, name: str, key: EntryKey, gate: int, fresh: Fresh, rows: Rows | None
    ) -> None:
        cached = self.history.read(key)
        if rows is not None:
            cached = {part: value[rows.rows_at] for part, value in cached.items()}
        self.step_log.measure(name, gate, parts_error(cached, fresh.parts), rows)


def _seen(cached: Parts, fresh: Parts, reuse: Bool[Tensor, " r"]) -> Parts:
    """Select the parts that the sampler sees in exposure: cached where a row reuses, else fresh."""
    return {
        name: torch.where(reuse.view(-1, *(1,) * (part.ndim - 1)), part, fresh[name])
        for name, part in cached.items()
    }
