"""A static plan: what every gate of every step does, known before sampling.

It holds for one number of steps and one sampler. :mod:`dqar.schedules.export` makes it from a gate,
:mod:`dqar.schedules.serialization` reads and writes it, :mod:`dqar.schedules.forecast_factors` says
what its forecasts need, and :mod:`dqar.integration.compiled.planned_transformer` follows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dqar.config import DQARConfig
from dqar.gates.base import Gate
from dqar.gates.rules import MaskGate
from dqar.records import MAX_ORDER


class Action(IntEnum):
    """What a gate of a plan does: it computes, or shows what was cached, as
    :data:`dqar.records.ACTIONS`. Stored by name, so that others may join."""

    COMPUTE = 0
    REUSE = 1
    FORECAST1 = 2
    FORECAST2 = 3

    @property
    def order(self) -> int:
        """Differences along which it continues the cached value."""
        return max(0, self - Action.REUSE)


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticPlan:
    """What every gate of every step does.

    Example: ``export_plan(Interval(2), steps=50, sites=("attn", "ff"), num_layers=28)``.
    """

    sites: tuple[str, ...]
    """What is reused, as in :attr:`dqar.DQARConfig.sites`."""
    num_layers: int
    """Transformer blocks of the model."""
    table: tuple[tuple[Action, ...], ...]
    """An action for each step and gate ``[t, g]``, gates site-major. Step 0 computes everything,
    and a forecast needs one computation more than its order before it."""
    sampler: str = ""
    """Class of the scheduler that it was exported for; empty when tied to none."""
    timesteps: tuple[float, ...] = ()
    """That scheduler's timesteps; empty when tied to none."""
    feedback: float = 0.0
    """As :attr:`dqar.DQARConfig.feedback`."""

    def __post_init__(self) -> None:
        DQARConfig(sites=self.sites, feedback=self.feedback)  # which refuses unknown sites
        if self.num_layers < 1:
            raise ValueError(
                f"num_layers must be at least 1. Got {self.num_layers}. "
                "Pass the number of the model's blocks."
            )
        self._require_table()
        if self.timesteps and len(self.timesteps) != len(self.table):
            raise ValueError(
                f"timesteps must be one a step, or none. Got {len(self.timesteps)} for "
                f"{len(self.table)} steps. Export the plan with the scheduler it is for."
            )
        if not all(map(math.isfinite, self.timesteps)):
            raise ValueError("timesteps must be finite numbers. Got others. Pass the scheduler's.")

    def _require_table(self) -> None:
        num_gates = len(self.sites) * self.num_layers
        if not self.table or any(len(row) != num_gates for row in self.table):
            raise ValueError(
                f"table must have {num_gates} gates in each of its steps. Got "
                f"{[len(row) for row in self.table[:3]]}, {len(self.sites)} sites and "
                f"{self.num_layers} layers. Export the plan for that model."
            )
        if set(self.table[0]) != {Action.COMPUTE}:
            raise ValueError(
                "Step 0 must compute every gate. Got a reuse of what was never computed. "
                "Let the plan reuse from step 1 on."
            )
        if (self.orders > _orders_within(self.mask, MAX_ORDER)).any():
            raise ValueError(
                "A forecast must come after one computation more than its order. Got one that "
                "comes too early. Make the plan with of_mask or export_plan."
            )

    @classmethod
    def of_mask(
        cls,
        reuse: Bool[Tensor, "t g"],
        *,
        sites: tuple[str, ...],
        forecast_order: int = 0,
        sampler: str = "",
        timesteps: Sequence[float] = (),
        feedback: float = 0.0,
    ) -> StaticPlan:
        """The plan that reuses where a mask says so.

        Args:
            forecast_order: of the forecasts that reuse shows, as far as a gate was computed often
                enough (:attr:`dqar.DQARConfig.forecast_order`).
            feedback: as :attr:`dqar.DQARConfig.feedback`.
        """
        if not 0 <= forecast_order <= MAX_ORDER:
            raise ValueError(
                f"forecast_order must be 0 to {MAX_ORDER}. Got {forecast_order}. Pass one of them."
            )
        actions = torch.where(reuse, Action.REUSE + _orders_within(reuse, forecast_order), 0)
        return cls(
            sites=sites,
            num_layers=reuse.shape[1] // max(1, len(sites)),
            table=tuple(tuple(map(Action, row)) for row in actions.tolist()),
            sampler=sampler,
            timesteps=tuple(timesteps),
            feedback=feedback,
        )

    @property
    def steps(self) -> int:
        """Sampling steps."""
        return len(self.table)

    @property
    def mask(self) -> Bool[Tensor, "t g"]:
        """Where it reuses, forecasts among them."""
        return torch.tensor(self.table) != Action.COMPUTE

    @property
    def orders(self) -> Int[Tensor, "t g"]:
        """Of the forecasts that it shows; 0 where it shows values as they are, or computes."""
        return (torch.tensor(self.table) - Action.REUSE).clamp_min(0)

    @property
    def forecast_order(self) -> int:
        """The highest of its orders."""
        return int(self.orders.max())

    @property
    def num_distinct_steps(self) -> int:
        """Steps that differ in what is computed: graphs that compiling whole steps needs."""
        return len(set(map(tuple, self.mask.tolist())))

    @property
    def reuse_ratio(self) -> float:
        """Gates that are not computed, of all gates; step 0 included."""
        return self.mask.double().mean().item()

    def config(self) -> DQARConfig:
        """The configuration of a controller that follows the plan by :meth:`gate`; its cache is the
        default one, since a plan does not say how finely it was measured.

        Raises:
            ValueError: if the plan mixes orders of forecasts, of which a controller has one.
        """
        shown = _orders_within(self.mask, self.forecast_order) * self.mask
        if not torch.equal(self.orders, shown):
            raise ValueError(
                "A controller's plan must forecast to one order throughout. Got a mixture. Follow "
                "it with PlannedDiT."
            )
        return DQARConfig(
            sites=self.sites,
            forecast_order=self.forecast_order,  # pyright: ignore[reportArgumentType] an action's
            feedback=self.feedback,
        )

    def from_step(self, step: int) -> StaticPlan:
        """The plan of a run that starts at a later step, such as image-to-image.

        Its first step computes every gate, and a forecast has at most the order that the
        computations since then allow, as a controller with :meth:`gate` does it.
        """
        if step == 0:
            return self
        reuse = self.mask[step:].clone()
        reuse[0] = False
        orders = torch.minimum(self.orders[step:], _orders_within(reuse, MAX_ORDER))
        actions = torch.where(reuse, Action.REUSE + orders, 0)
        table = tuple(tuple(map(Action, row)) for row in actions.tolist())
        return replace(self, table=table, timesteps=self.timesteps[step:])

    def gate(self) -> Gate:
        """The gate by which a controller follows the plan:
        ``DQARController(plan.config(), gate=plan.gate())``."""
        return MaskGate(self.mask[:, :, None])

    def refuse_misfit(self, num_layers: int, timesteps: Sequence[float]) -> None:
        """A plan is for one depth, one number of steps, and the sampler it was exported for.

        Args:
            num_layers: the model's.
            timesteps: the scheduler's.

        Raises:
            ValueError: naming what does not fit.
        """
        if (num_layers, len(timesteps)) != (self.num_layers, self.steps):
            raise ValueError(
                f"The plan must fit the model and the steps. Got one of {self.num_layers} layers "
                f"and {self.steps} steps for {num_layers} layers and {len(timesteps)} steps. "
                "Export one for them."
            )
        if self.timesteps and self.timesteps != tuple(timesteps):
            raise ValueError(
                f"The plan must be of the scheduler. Got one exported for the timesteps of "
                f"{self.sampler or 'another'}. Export one for this scheduler."
            )


def majority(share: Float[Tensor, "t g"]) -> Bool[Tensor, "t g"]:
    """The plan that most samples follow: reuse where more than half of them do.

    Args:
        share: samples that reused, by step and gate.
    """
    return share > 0.5


def _orders_within(reuse: Bool[Tensor, "t g"], wanted: int) -> Int[Tensor, "t g"]:
    """Orders that reuse can show at most: one less than the computations before."""
    computations_before = (~reuse).cumsum(dim=0) - (~reuse).long()
    return (computations_before - 1).clamp(0, wanted)
