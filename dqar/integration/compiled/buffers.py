"""What sites of a planned transformer keep, and the classes of sites that write and read it.

A site keeps its last value and as many divided differences as its forecasts read, made and added up
by the operations of :mod:`dqar.cache.forecast`, as a controller with an exact cache does it. What
differs from step to step are factors alone, in tensors at fixed addresses: in a graph they are
inputs, and so a step needs no graph of its own. A difference that a step leaves out has the
factor 0.
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
    """Stands in for a kept value in a call that finds out what it must be like."""

    tensor: Tensor | None = None

    def copy_(self, output: Tensor) -> None:
        """Allocate what will hold such outputs."""
        # Written to in later calls, which may be in inference mode or not.
        with torch.inference_mode(False):
            self.tensor = torch.zeros_like(output)


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteBuffers:
    """What one gate keeps."""

    value: Tensor | Placeholder | None
    """What it last computed; None of a site that the model leaves out."""
    differences: tuple[Tensor, ...] = ()
    """Of the first order, then of the second; as many as its forecasts read."""
    factors: Float[Tensor, "2 2 1"] | None = None
    """Of the open step: weights of the differences, then their rates."""


NOTHING = SiteBuffers(value=None)


class ScheduleBuffers:
    """What all gates of a plan keep for one batch, at addresses that stay.

    The factors of all steps lie on the device, so that a step asks for nothing from the host.

    Args:
        values: by gate, tensors for what it last computed.
    """

    def __init__(self, plan: StaticPlan, values: dict[int, Tensor]) -> None:
        orders = plan.orders.amax(dim=0).tolist()
        self._factors: Tensor | None = None
        now: Any = [None] * len(orders)
        if values and plan.forecast_order:
            device = next(iter(values.values())).device
            with torch.inference_mode(False):  # as in Blank
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
        """All that sites read or write."""
        held = [(kept.value, *kept.differences, kept.factors) for kept in self.gates.values()]
        return [tensor for kept in held for tensor in kept if isinstance(tensor, Tensor)]

    @property
    def nbytes(self) -> int:
        """Bytes of all values and differences."""
        held = [(kept.value, *kept.differences) for kept in self.gates.values()]
        return sum(tensor.nbytes for kept in held for tensor in kept if isinstance(tensor, Tensor))

    def begin_run(self) -> None:
        """Forget the last run, of which a factor of 0 would let pass what is not finite."""
        if self._factors is not None:
            torch._foreach_zero_(self.tensors)

    def begin_step(self, step: int) -> None:
        """Set the factors of a step."""
        if self._factors is not None:
            self._now.copy_(self._factors[step])


def _like(value: Tensor, number: int) -> tuple[Tensor, ...]:
    with torch.inference_mode(False):
        return tuple(torch.zeros_like(value) for _ in range(number))


@cache
def output_kinds(kind: type[nn.Module]) -> dict[str, type[nn.Module]]:
    """Classes of a site that keeps its output, and of one that returns it, by role."""
    # Classes and no wrappers, since transformers read attributes of their blocks; unchecked,
    # since dynamo cannot trace through a type checker.
    inner: Any = kind.forward

    @no_type_check
    class Keeping(kind):
        def forward(self, hidden_states, *args, **kwargs):
            output = inner(self, hidden_states, *args, **kwargs)
            _keep(self, output.detach())
            return output

    @no_type_check
    class Reusing(kind):
        def forward(self, hidden_states, *args, **kwargs):
            del hidden_states, args, kwargs
            return _shown(self)

    return {"keep": Keeping, "reuse": Reusing}


@cache
def residual_kinds(kind: type[nn.Module]) -> dict[str, type[nn.Module]]:
    """The same of blocks, which keep and add their residual."""
    inner: Any = kind.forward

    @no_type_check
    class Keeping(kind):
        def forward(self, hidden_states, *args, **kwargs):
            # What the block returned is a rounding away from the sum with its residual.
            returned = inner(self, hidden_states, *args, **kwargs)
            _keep(self, (returned - hidden_states).detach())
            return returned

    @no_type_check
    class Reusing(kind):
        def forward(self, hidden_states, *args, **kwargs):
            del args, kwargs
            return hidden_states + _shown(self)

    return {"keep": Keeping, "reuse": Reusing}


@no_type_check
def _keep(site, fresh):
    rooms = (site.kept, *site.differences)
    changes = [fresh]
    for order, earlier in enumerate(rooms[:-1]):
        changes.append(torch.sub(changes[-1], earlier).mul_(site.factors[1, order]))
    # All of them before anything is overwritten.
    for room, change in zip(rooms, changes, strict=True):
        room.copy_(change)


@no_type_check
def _shown(site):
    total = site.kept
    for order, difference in enumerate(site.differences):
        # In float32, and back: weights of a large gap are not exact in 16 bits.
        total = torch.addcmul(total, difference, site.factors[0, order]).to(total.dtype)
    return total
