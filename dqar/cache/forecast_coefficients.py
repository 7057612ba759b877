"""Weights and rates of forecasts at one step, computed on the host before the step runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dqar.cache.forecast import Factor, forecast_weights, update_rates
from dqar.records import EntryKey, GateInputs


class StepCoefficients:
    """Weights and rates of all gates of a step, up to a maximum order.

    Where all samples of a gate have the same factor, the factor is a Python number and needs no
    copy to the device. Factors that differ between samples are copied to the device once a step,
    for all gates together.

    Args:
        gap: steps since the last computation; 0 before the first.
        span: steps between the last two computations; 0 before the second.
        order: order of the forecast that a reuse shows.
        max_order: number of differences that the cache keeps.
    """

    def __init__(
        self,
        gap: Int[Tensor, "g b"],
        span: Int[Tensor, "g b"],
        order: Int[Tensor, "g b"],
        max_order: int,
    ) -> None:
        weights, rates = forecast_weights(gap, span, order), update_rates(gap, span)
        self.max_order = max_order
        self._table = torch.cat([weights[:max_order], rates[:max_order]])
        self._alike = (self._table == self._table[..., :1]).all(dim=-1).tolist()
        self._first = self._table[..., 0].tolist()
        self._by_rows: dict[int, Tensor] = {}

    @classmethod
    def of(cls, inputs: GateInputs, max_order: int) -> StepCoefficients | None:
        """Make the coefficients of a step from its gates' inputs; None if ``max_order`` is 0."""
        if not max_order:
            return None
        return cls(inputs.gap, inputs.span, inputs.order, max_order)

    def factor(self, which: int, gate: int, num_rows: int, device: torch.device) -> Factor:
        """Return one factor of one gate.

        Args:
            which: index into the weights by order, followed by the rates by order.
            num_rows: rows of the branch-major batch.
        """
        if self._alike[which][gate]:
            return self._first[which][gate]
        if num_rows not in self._by_rows:
            by_row = self._table.float().repeat(1, 1, num_rows // self._table.shape[-1])
            self._by_rows[num_rows] = by_row.to(device, non_blocking=True)
        return self._by_rows[num_rows][which, gate]


@dataclass(frozen=True, kw_only=True, slots=True)
class Coefficients:
    """Weights and rates of one gate at one step."""

    step: StepCoefficients
    """Coefficients of all gates of the step."""
    gate: int
    """Index of the gate in ``step``."""

    def weights(self, num_rows: int, device: torch.device) -> tuple[Factor, ...]:
        """Weight of each difference in a forecast, for a batch of ``num_rows`` rows."""
        orders = range(self.step.max_order)
        return tuple(self.step.factor(order, self.gate, num_rows, device) for order in orders)

    def rates(
        self, num_rows: int, device: torch.device, rows: Int[Tensor, " s"] | None = None
    ) -> tuple[Factor, ...]:
        """Rate of each difference, for a batch of ``num_rows`` rows, or for some of its rows."""
        orders = range(self.step.max_order, 2 * self.step.max_order)
        rates = tuple(self.step.factor(order, self.gate, num_rows, device) for order in orders)
        if rows is None:
            return rates
        return tuple(rate[rows] if isinstance(rate, Tensor) else rate for rate in rates)


class ManualForecastHistory:
    """Steps at which each entry was computed under manual control
    (:class:`dqar.control.manual.ManualControl`).

    :class:`dqar.control.entry_state.EntryState` has one row for all guidance branches of a gate.
    Under manual control one branch may compute while the other reuses, so the steps are kept here
    for each branch.

    Args:
        wanted_order: order of the forecasts, by sample.
        max_order: number of differences that the cache keeps.
    """

    def __init__(self, wanted_order: Int[Tensor, " b"], max_order: int) -> None:
        self.wanted_order = wanted_order
        self.max_order = max_order
        self._steps: dict[EntryKey, list[int]] = {}

    def note(self, key: EntryKey, step: int) -> None:
        """Record that all rows of an entry were computed at ``step``. If the last recorded step is
        not before ``step``, the earlier steps are forgotten."""
        past = self._steps.get(key, [])
        past = past if past and past[0] < step else []
        self._steps[key] = [step, *past][: self.max_order + 1]

    def lend(self, key: EntryKey, borrower: EntryKey) -> None:
        """Record that ``borrower`` took over the value and the earlier steps of ``key``."""
        self._steps[borrower] = self._steps.get(key, [])

    def coefficients(self, key: EntryKey, step: int) -> Coefficients | None:
        """Coefficients of an entry at a step; None without forecasts or earlier computation."""
        past = self._steps.get(key, [])
        if not self.max_order or not past:
            return None
        span = past[0] - past[1] if len(past) > 1 else 0
        order = self.wanted_order.clamp(max=len(past) - 1)[None]
        gaps, spans = (torch.full_like(order, steps) for steps in (step - past[0], span))
        return Coefficients(step=StepCoefficients(gaps, spans, order, self.max_order), gate=0)
