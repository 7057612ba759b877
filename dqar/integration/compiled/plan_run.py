"""One sampling run of a plan: the row of the plan that each call of the transformer follows."""

from __future__ import annotations

from typing import Any

from dqar.integration.schedule_position import SchedulePosition, Timestep
from dqar.schedules.static_plan import Action, StaticPlan

Row = tuple[Action, ...]
"""Actions of all gates at one step."""


class PlanRun:
    """One run by a plan. The first call reads the scheduler's timesteps."""

    def __init__(self, plan: StaticPlan, scheduler: Any) -> None:
        self.plan = plan
        """The plan from the step of the first call on."""
        self.position = SchedulePosition(scheduler)
        self.first_step = 0

    @property
    def step(self) -> int:
        """Steps since the first call."""
        return (self.position.step or 0) - self.first_step

    def next_row(self, timestep: Timestep) -> Row:
        """Return the actions of all gates at the step of the next call.

        Raises:
            ValueError: if the plan does not fit the scheduler, or the timestep is not the next one.
        """
        is_first = self.position.step is None
        step = self.position.advance(timestep)
        if is_first:
            self.plan.refuse_misfit(self.plan.num_layers, self.position.timesteps)
            self.first_step, self.plan = step, self.plan.from_step(step)
        return self.plan.table[self.step]
