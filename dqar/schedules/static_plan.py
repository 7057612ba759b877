"""Static plans: a table, fixed before sampling, of the action of every gate at every step.

A plan holds for one number of steps and one sampler. :mod:`dqar.schedules.export` makes a plan from
a reuse rule, :mod:`dqar.schedules.serialization` reads and writes plans,
:mod:`dqar.schedules.forecast_factors` computes the coefficients of their forecasts, and
:mod:`dqar.integration.compiled.planned_transformer` samples by them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dqar.config import DQARConfig
from dqar.gate_table import GateTable, StackShape
from dqar.gates.base import Gate
from dqar.gates.rules import MaskGate
from dqar.records import MAX_ORDER
from dqar.schedules.interchange import export_table


class Action(IntEnum):
    """The action of one gate: compute, or reuse the cached value in one of the ways of
    :data:`dqar.records.ACTIONS`. Files store the name, so that later releases may add actions."""

    COMPUTE = 0
    REUSE = 1
    FORECAST1 = 2
    FORECAST2 = 3

    @property
    def order(self) -> int:
        """Forecast order: the number of divided differences along which the action continues the
        cached value; 0 for ``COMPUTE`` and ``REUSE``."""
        return max(0, self - Action.REUSE)


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticPlan:
    """The action of every gate at every step of a run.

    Example: ``export_plan(Interval(2), steps=50, sites=("attn", "ff"), num_layers=28)``.
    """

    sites: tuple[str, ...]
    """Sites whose result is reused, as in :attr:`dqar.DQARConfig.sites`."""
    num_layers: int
    """Transformer blocks of the model."""
    table: tuple[tuple[Action, ...], ...]
    """Action of each gate at each step, ``[t, g]``, gates site-major. Step 0 computes every gate,
    and a forecast of order k comes after at least k + 1 computations of its gate."""
    sampler: str = ""
    """Class name of the scheduler that the plan was exported for; empty for any scheduler."""
    timesteps: tuple[float, ...] = ()
    """Timesteps of the scheduler that the plan was exported for; empty for any scheduler."""
    feedback: float = 0.0
    """Gain of the error feedback, as :attr:`dqar.DQARConfig.feedback`."""
    stacks: tuple[StackShape, ...] = ()
    """Stacks of a model whose layers differ in their sites; empty for one stack of equal blocks."""

    def __post_init__(self) -> None:
        DQARConfig(sites=self.sites, feedback=self.feedback)  # refuses unknown sites and gains
        if self.num_layers < 1:
            raise ValueError(
                f"num_layers must be at least 1. Got {self.num_layers}. "
                "Pass the number of the model's blocks."
            )
        if self.stacks and self.gate_table.num_layers != self.num_layers:
            raise ValueError(
                f"stacks must have num_layers blocks. Got {self.gate_table.num_layers} for "
                f"{self.num_layers}. Export the plan again."
            )
        self._require_table()
        if self.timesteps and len(self.timesteps) != len(self.table):
            raise ValueError(
                f"timesteps must be one a step, or none. Got {len(self.timesteps)} for "
                f"{len(self.table)} steps. Export the plan with the scheduler that it is for."
            )
        if not all(map(math.isfinite, self.timesteps)):
            raise ValueError(
                f"timesteps must be finite numbers. Got others in {self.timesteps!s:.60}. "
                "Pass scheduler.timesteps."
            )

    def _require_table(self) -> None:
        num_gates = self.gate_table.num_gates
        if not self.table or any(len(row) != num_gates for row in self.table):
            raise ValueError(
                f"table must have {num_gates} gates in each of its steps. Got "
                f"{[len(row) for row in self.table[:3]]} in the first steps, for "
                f"{len(self.sites)} sites and {self.num_layers} layers. Export the plan for that "
                "model."
            )
        if set(self.table[0]) != {Action.COMPUTE}:
            raise ValueError(
                "Step 0 must compute every gate. Got a step 0 that reuses. "
                "Let the plan reuse from step 1 on."
            )
        if (self.orders > _orders_within(self.mask, MAX_ORDER)).any():
            raise ValueError(
                "A forecast must come after one computation more than its order. Got a forecast "
                "that comes earlier. Make the plan with StaticPlan.of_mask or export_plan."
            )

    @classmethod
    def of_mask(
        cls,
        reuse: Bool[Tensor, "t g"],
        *,
        sites: tuple[str, ...],
        gates: GateTable | None = None,
        forecast_order: int = 0,
        sampler: str = "",
        timesteps: Sequence[float] = (),
        feedback: float = 0.0,
    ) -> StaticPlan:
        """Make the plan that reuses where a mask is true.

        Args:
            gates: gates of the model, one for each column of ``reuse``; by default those of one
                stack of equal blocks.
            forecast_order: order of the forecasts that reuse shows, lower where a gate was
                computed too rarely before (:attr:`dqar.DQARConfig.forecast_order`).
            feedback: gain of the error feedback, as :attr:`dqar.DQARConfig.feedback`.

        Raises:
            ValueError: if the order is out of range, or a field of the plan is invalid.
        """
        if not 0 <= forecast_order <= MAX_ORDER:
            raise ValueError(
                f"forecast_order must be 0 to {MAX_ORDER}. Got {forecast_order}. Pass 0, 1 or 2."
            )
        actions = torch.where(reuse, Action.REUSE + _orders_within(reuse, forecast_order), 0)
        return cls(
            sites=sites,
            num_layers=gates.num_layers if gates else reuse.shape[1] // max(1, len(sites)),
            table=tuple(tuple(map(Action, row)) for row in actions.tolist()),
            sampler=sampler,
            timesteps=tuple(timesteps),
            feedback=feedback,
            stacks=() if gates is None or gates.is_regular else gates.stacks,
        )

    @property
    def gate_table(self) -> GateTable:
        """The gates that the columns of ``table`` stand for."""
        if not self.stacks:
            return GateTable.regular(self.sites, self.num_layers)
        return GateTable(sites=self.sites, stacks=self.stacks)

    @property
    def steps(self) -> int:
        """Number of sampling steps."""
        return len(self.table)

    @property
    def mask(self) -> Bool[Tensor, "t g"]:
        """True where a gate reuses, with or without a forecast."""
        return torch.tensor(self.table) != Action.COMPUTE

    @property
    def orders(self) -> Int[Tensor, "t g"]:
        """Forecast order of each gate; 0 where a gate computes or reuses the value unchanged."""
        return (torch.tensor(self.table) - Action.REUSE).clamp_min(0)

    @property
    def forecast_order(self) -> int:
        """Highest forecast order in the plan."""
        return int(self.orders.max())

    @property
    def num_distinct_steps(self) -> int:
        """Number of different sets of gates that a step computes, which is the number of graphs
        that compiling whole steps takes."""
        return len(set(map(tuple, self.mask.tolist())))

    @property
    def reuse_ratio(self) -> float:
        """Share of the gates of all steps, step 0 included, that reuse."""
        return self.mask.double().mean().item()

    def config(self) -> DQARConfig:
        """Configuration of a controller that follows the plan with :meth:`gate`. Its cache has the
        default format, since a plan does not record one.

        Raises:
            ValueError: if the plan mixes forecast orders; a controller has a single one.
        """
        shown = _orders_within(self.mask, self.forecast_order) * self.mask
        if not torch.equal(self.orders, shown):
            raise ValueError(
                "A controller's plan must forecast to one order throughout. Got several orders. "
                "Sample with PlannedDiT in place of a controller."
            )
        return DQARConfig(
            sites=self.sites,
            forecast_order=self.forecast_order,  # pyright: ignore[reportArgumentType] an action's
            feedback=self.feedback,
        )

    def export(self, format: str, path: str | Path | None = None) -> Any:
        """Return the plan in a format of other programs, and write it to a path that is given.

        Args:
            format: ``"cache-dit"``, the dictionary that ``cache_dit.load_configs`` reads (a file
                is YAML); ``"list"``, 1 for each step that computes and 0 for each that reuses; or
                ``"gates"``, such a list for each step, by gate (files are JSON).
            path: file to write.

        Raises:
            ValueError: if the format has no place for what the plan does, such as a step that
                computes some gates only.
        """
        return export_table(self.mask, self.orders, self.feedback, format, path)

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
        """Reuse rule of a controller that follows the plan:
        ``DQARController(plan.config(), gate=plan.gate())``. It refuses a model of other gates."""
        return MaskGate(self.mask[:, :, None], self.gate_table)

    def refuse_misfit(self, num_layers: int | GateTable, timesteps: Sequence[float]) -> None:
        """Refuse a model or a scheduler that the plan was not made for.

        Args:
            num_layers: transformer blocks of the model, or its gates.
            timesteps: timesteps of the scheduler.

        Raises:
            ValueError: if the number of layers or steps differs from the plan's, or the timesteps
                differ from those that the plan was exported for.
        """
        model = GateTable.of(self.sites, num_layers)
        if (model.num_layers, len(timesteps)) != (self.num_layers, self.steps):
            raise ValueError(
                f"The plan must fit the model and the sampler. Got one of {self.num_layers} layers "
                f"and {self.steps} steps for {model.num_layers} layers and {len(timesteps)} "
                "steps. Export a plan for this model and number of steps."
            )
        if model.gates != self.gate_table.gates:
            raise ValueError(
                "The plan must be of a model with the same sites in the same layers. Got one of "
                f"{self.gate_table.num_gates} gates for {model.num_gates}. Export a plan for this "
                "model."
            )
        if self.timesteps and self.timesteps != tuple(timesteps):
            raise ValueError(
                f"The plan must be of the scheduler that samples. Got a plan exported for the "
                f"timesteps of {self.sampler or 'another scheduler'}. Export a plan for this "
                "scheduler."
            )


def majority(share: Float[Tensor, "t g"]) -> Bool[Tensor, "t g"]:
    """Return the majority decision of several samples: reuse where more than half of them reused.

    Args:
        share: share of the samples that reused, by step and gate.
    """
    return share > 0.5


def _orders_within(reuse: Bool[Tensor, "t g"], wanted: int) -> Int[Tensor, "t g"]:
    """Highest forecast orders up to ``wanted``: one less than the gate's computations before."""
    computations_before = (~reuse).cumsum(dim=0) - (~reuse).long()
    return (computations_before - 1).clamp(0, wanted)
