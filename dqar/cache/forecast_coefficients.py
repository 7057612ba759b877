"""The factors of forecasts at one step, known on the host before it runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dqar.cache.forecast import Factor, forecast_weights, update_rates
from dqar.records import EntryKey, GateInputs


class StepCoefficients:
    """The coefficients of all gates of a step, up to an order.

    Where all samples agree a factor is a number, which the device needs no copy of. What differs
    by sample goes there in one copy a step, of all gates together.

    Args:
        gap: steps since the last computation; 0 before the first.
        span: steps between the last two; 0 with fewer.
        order: of the forecast that a reuse shows.
        max_order: differences that are kept.
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
        """Of what the gates saw; None where nothing is forecast."""
        if not max_order:
            return None
        return cls(inputs.gap, inputs.span, inputs.order, max_order)

    def factor(self, which: int, gate: int, num_rows: int, device: torch.device) -> Factor:
        """One coefficient of one gate, for a batch of so many rows, branch-major."""
        if self._alike[which][gate]:
            return self._first[which][gate]
        if num_rows not in self._by_rows:
            by_row = self._table.float().repeat(1, 1, num_rows // self._table.shape[-1])
            self._by_rows[num_rows] = by_row.to(device, non_blocking=True)
        return self._by_rows[num_rows][which, gate]


@dataclass(frozen=True, kw_only=True, slots=True)
class Coefficients:
    """Those of one gate."""

    step: StepCoefficients
    gate: int

    def weights(self, num_rows: int, device: torch.device) -> tuple[Factor, ...]:
        """What each difference is multiplied by in a forecast, for so many rows."""
        orders = range(self.step.max_order)
        return tuple(self.step.factor(order, self.gate, num_rows, device) for order in orders)

    def rates(
        self, num_rows: int, device: torch.device, rows: Int[Tensor, " s"] | None = None
    ) -> tuple[Factor, ...]:
        """What makes a difference of a change, order by order, for some of so many rows."""
        orders = range(self.step.max_order, 2 * self.step.max_order)
        rates = tuple(self.step.factor(order, self.gate, num_rows, device) for order in orders)
        if rows is None:
            return rates
        return tuple(rate[rows] if isinstance(rate, Tensor) else rate for rate in rates)


class ManualForecastHistory:
    """When entries driven by hand were computed. The books hold one line for all branches of a
    gate, and by hand a branch may compute while another reuses.

    Args:
        wanted_order: of the forecasts, by sample.
        max_order: differences that are kept.
    """

    def __init__(self, wanted_order: Int[Tensor, " b"], max_order: int) -> None:
        self.wanted_order = wanted_order
        self.max_order = max_order
        self._steps: dict[EntryKey, list[int]] = {}

    def note(self, key: EntryKey, step: int) -> None:
        """An entry was computed, in all its rows. Its past begins anew if that was not after the
        last time."""
        past = self._steps.get(key, [])
        past = past if past and past[0] < step else []
        self._steps[key] = [step, *past][: self.max_order + 1]

    def lend(self, key: EntryKey, borrower: EntryKey) -> None:
        """An entry was given another's value with its past."""
        self._steps[borrower] = self._steps.get(key, [])

    def coefficients(self, key: EntryKey, step: int) -> Coefficients | None:
        """An entry's, at a step; None where nothing is forecast."""
        past = self._steps.get(key, [])
        if not self.max_order or not past:
            return None
        span = past[0] - past[1] if len(past) > 1 else 0
        order = self.wanted_order.clamp(max=len(past) - 1)[None]
        gaps, spans = (torch.full_like(order, steps) for steps in (step - past[0], span))
        return Coefficients(step=StepCoefficients(gaps, spans, order, self.max_order), gate=0)
