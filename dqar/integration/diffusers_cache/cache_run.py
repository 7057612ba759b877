"""Sampling runs without a scheduler: the steps are counted by the timesteps that come."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from dqar.control.controller import DQARController
from dqar.integration.guidance.found import FoundGuidance
from dqar.integration.guidance.model_call import ModelCall
from dqar.integration.schedule_position import SchedulePosition, Timestep
from dqar.integration.step_counter import Run

ASCENDING = (
    "Lumina2Transformer2DModel",
    "MochiTransformer3DModel",
    "ZImageTransformer2DModel",
)
"""Transformers whose pipelines call them with timesteps that rise."""


class CountedPosition(SchedulePosition):
    """Position of a run that is known only by the number of its steps so far.

    Args:
        total: number of steps; None if it is unknown, and each step counts as the last so far.
    """

    def __init__(self, total: int | None) -> None:
        super().__init__(SimpleNamespace(timesteps=torch.empty(0)))
        self.known_total = total
        self._now = 0.0

    @property
    def total(self) -> int:
        return self.known_total or (self.step or 0) + 1

    @property
    def now(self) -> float:
        return self._now

    def advance(self, timestep: Timestep) -> int:
        self.step = 0 if self.step is None else self.step + 1
        self._now = number_of(timestep)
        return self.step

    def repeat(self, timestep: Timestep) -> None:
        del timestep  # A call is a repeat only if its timestep is the step's.


class CacheRun(Run):
    """One run of a transformer whose pipeline is not known.

    A run ends where the timestep jumps back towards noise, where another batch or size comes, or
    where all steps are done. An interrupted run therefore is continued by one that starts later in
    the schedule, unless its conditions differ.

    Args:
        timesteps: timesteps of the schedule, if they are known.
        total: number of steps, if it is known.
        rises: True if timesteps rise from noise to data.
    """

    def __init__(
        self,
        controller: DQARController,
        *,
        timesteps: tuple[float, ...] = (),
        total: int | None = None,
        rises: bool = False,
    ) -> None:
        scheduler = SimpleNamespace(timesteps=torch.tensor(timesteps, dtype=torch.float64))
        super().__init__(scheduler, controller)
        self.guidance = FoundGuidance(trusts_names=False)
        if not timesteps:
            self.position = CountedPosition(total)
        self.rises = rises
        self._first: ModelCall | None = None
        self._last = 0.0
        """Timestep of the last step."""
        self._is_warned = False

    def before_call(self, call: ModelCall) -> None:
        self._first = self._first or call
        super().before_call(call)
        self._last = number_of(call.timestep)

    def is_over(self, call: ModelCall) -> bool:
        """True if a call begins another run.

        Raises:
            ValueError: if it goes on with this one, beyond its last step.
        """
        if self._first is None or self.guidance.is_repeat(call):
            return False
        if _shape(call) != _shape(self._first) or call.rows % self.guidance.num_samples:
            return True
        step, now = self.position.step or 0, number_of(call.timestep)
        ahead = now - self._last if self.rises else self._last - now
        if ahead < 0 or (ahead == 0 and step == 0):
            return True
        if step + 1 >= self.position.total and not self._is_open_ended:
            raise ValueError(
                f"The cache must be made for the run's number of steps. Got one for "
                f"{self.position.total}, and one more step. Sample with that number of steps, or "
                "apply another plan."
            )
        return False

    def warn_of_early_end(self) -> None:
        """Warn once if the run has fewer steps than its schedule, whose first ones it followed."""
        steps, total = (self.position.step or 0) + 1, self.position.total
        if self._first is None or steps >= total or self._is_warned:
            return
        self._is_warned = True
        warnings.warn(
            f"A run ended after {steps} of the schedule's {total} steps, whose first ones it "
            f"followed. Sample with {total} steps, or apply a plan for {steps}.",
            UserWarning,
            stacklevel=3,
        )

    @property
    def _is_open_ended(self) -> bool:
        return isinstance(self.position, CountedPosition) and not self.position.known_total


def number_of(timestep: Any) -> float:
    """Timestep of a call on the host; clean tokens of a row have a smaller one."""
    return float(timestep.max()) if isinstance(timestep, Tensor) else float(timestep)


def _shape(call: ModelCall) -> Any:
    return call.latent[0].shape
