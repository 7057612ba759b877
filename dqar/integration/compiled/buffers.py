"""Buffers of a planned transformer's sites, and the module classes that write and read them.

A site keeps its last computed value and as many divided differences as its forecasts read, by the
operations of :mod:`dqar.cache.forecast`; a controller with an unquantised cache computes the same.
Only the forecast coefficients differ from step to step. They are tensors at fixed addresses and
inputs of the compiled graph, so steps that compute the same sites share one graph. A difference
that a step does not use has the coefficient 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dqar.schedules.forecast_factors import step_factors
from dqar.schedules.static_plan import StaticPlan


class Placeholder:
    """A placeholder of a buffer in the first step of a batch shape, which allocates the buffer."""

    tensor: Tensor | None = None

    def copy_(self, output: Tensor) -> None:
        """Allocate a buffer of the shape, dtype and device of ``output``, and copy ``output``."""
        # Not an inference tensor, since later calls write to it inside and outside inference mode.
        with torch.inference_mode(False):
            self.tensor = torch.empty_like(output)
        self.tensor.copy_(output)


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteBuffers:
    """The buffers of one site of one layer."""

    value: Tensor | Placeholder | None
    """Last computed value; None for a site that the model never calls."""
    differences: tuple[Tensor, ...] = ()
    """Divided differences, first order and then second, as many as the site's forecasts read."""
    factors: Float[Tensor, "2 2 1"] | None = None
    """Coefficients of the current step: the weights of the differences, then their rates."""


NOTHING = SiteBuffers(value=None)


class ScheduleBuffers:
    """The buffers of all sites of a plan for one batch, at fixed addresses.

    The coefficients of all steps are kept on the device, so that no step copies from the host.

    Args:
        values: by gate, a tensor for the last computed value.
    """

    def __init__(self, plan: StaticPlan, values: dict[int, Tensor]) -> None:
        orders = plan.orders.amax(dim=0).tolist()
        self._factors: Tensor | None = None
        now: Any = [None] * len(orders)
        if values and plan.forecast_order:
            device = next(iter(values.values())).device
            with torch.inference_mode(False):  # as in Placeholder.copy_
                self._factors = step_factors(plan)[..., None].to(device)
                now = self._now = torch.zeros_like(self._factors[0])
        self.gates = {
            gate: SiteBuffers(
                value=value, differences=_like(value, orders[gate]), factors=now[gate]
            )
            for gate, value in values.items()
        }

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that sites read or write."""
        held = [(kept.value, *kept.differences, kept.factors) for kept in self.gates.values()]
        return [tensor for kept in held for tensor in kept if isinstance(tensor, Tensor)]

    @property
    def nbytes(self) -> int:
        """Bytes of all values and differences."""
        held = [(kept.value, *kept.differences) for kept in self.gates.values()]
        return sum(tensor.nbytes for kept in held for tensor in kept if isinstance(tensor, Tensor))

    def begin_run(self) -> None:
        """Zero the buffers: 0 * NaN is NaN, so that a coefficient of 0 would not remove a NaN or an
        infinity of the last run."""
        if self._factors is not None:
            torch._foreach_zero_(self.tensors)

    def begin_step(self, step: int) -> None:
        """Set the coefficients of a step."""
        if self._factors is not None:
            self._now.copy_(self._factors[step])


def _like(value: Tensor, number: int) -> tuple[Tensor, ...]:
    with torch.inference_mode(False):
        return tuple(torch.zeros_like(value) for _ in range(number))


@cache
def output_kinds(kind: type[nn.Module]) -> dict[str, type[nn.Module]]:
    """Return, by role, the subclasses of a site's class that keep the output and that reuse it."""
    # Subclasses, not wrappers, since transformers read attributes of their blocks. Without type
    # checks, since dynamo cannot trace a run-time type checker.
    inner: Any = kind.forward

    @no_type_check
    class Keeping(kind):
        def forward(self, hidden_states, *args, **kwargs):
            output = inner(self, hidden_states, *args, **kwargs)
            keep(self, output.detach())
            return output

    @no_type_check
    class Reusing(kind):
        def forward(self, hidden_states, *args, **kwargs):
            del hidden_states, args, kwargs
            return shown(self)

    return {"keep": Keeping, "reuse": Reusing}


@cache
def residual_kinds(kind: type[nn.Module]) -> dict[str, type[nn.Module]]:
    """Return, by role, the subclasses of a block's class that keep the residual and that add it."""
    inner: Any = kind.forward

    @no_type_check
    class Keeping(kind):
        def forward(self, hidden_states, *args, **kwargs):
            # The block's output itself: hidden states plus residual differ from it by a rounding.
            returned = inner(self, hidden_states, *args, **kwargs)
            keep(self, (returned - hidden_states).detach())
            return returned

    @no_type_check
    class Reusing(kind):
        def forward(self, hidden_states, *args, **kwargs):
            del args, kwargs
            return hidden_states + shown(self)

    return {"keep": Keeping, "reuse": Reusing}


@no_type_check
def keep(site, fresh):
    """Write a computed value and its divided differences to the buffers of a site."""
    targets = (site.kept, *site.differences)
    changes = [fresh]
    for order, earlier in enumerate(targets[:-1]):
        changes.append(torch.sub(changes[-1], earlier).mul_(site.factors[1, order]))
    # All changes are computed before a buffer is overwritten.
    for target, change in zip(targets, changes, strict=True):
        target.copy_(change)


@no_type_check
def shown(site):
    """Return the value of a site's buffers, as a forecast if the site has differences."""
    # A copy where autograd may keep the value, since a later step overwrites the buffer.
    total = site.kept.clone() if torch.is_grad_enabled() else site.kept
    for order, difference in enumerate(site.differences):
        # Computed in float32 and cast back: 16 bits do not hold a large gap's weight exactly.
        total = torch.addcmul(total, difference, site.factors[0, order]).to(total.dtype)
    return total
