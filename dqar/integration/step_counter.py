"""A sampling run: opens a controller step before each call of the transformer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dqar.control.controller import DQARController
from dqar.integration.schedule_position import SchedulePosition, Timestep
from dqar.snr import scheduler_snr


class Run:
    """One sampling run of a controller, which opens a step before each call of the transformer.

    Args:
        scheduler: a diffusers scheduler, whose timesteps are read at the first call.
        num_branches: number of guidance branches stacked in each batch.
        prompt_length: tokens of the prompt, one number or one for each sample.
    """

    def __init__(
        self,
        scheduler: Any,
        controller: DQARController,
        num_branches: int,
        prompt_length: int | Tensor,
    ) -> None:
        self.scheduler = scheduler
        self.controller = controller
        self.num_branches = num_branches
        self.prompt_length = prompt_length
        self.position = SchedulePosition(scheduler)
        self.snrs: list[float] = []

    def before_call(self, hidden_states: Tensor, timestep: Timestep) -> None:
        """Open the controller's step of this call.

        Args:
            hidden_states: the latents of all guidance branches, ``[r, ...]``.
            timestep: the timestep that the transformer is called with.

        Raises:
            ValueError: if the timestep is not the scheduler's next one.
        """
        is_first = self.position.step is None
        step = self.position.advance(timestep)
        timesteps = self.position.timesteps
        if is_first:
            self._read_snrs(timesteps)
            self.controller.begin_run()
        self.controller.begin_step(
            step,
            len(timesteps),
            self.prompt_length,
            timestep=timesteps[step],
            snr=self._snr(step, timesteps[step]),
            latent=self._latent(hidden_states),
        )

    def after_call(self, output: Tensor) -> Tensor:
        """Return the transformer's output ``[r, ...]``, corrected by the error feedback."""
        return self.controller.corrected(output)

    def finish(self) -> None:
        """Close the last step.

        Raises:
            ValueError: if its timestep was not the scheduler's.
        """
        self.position.finish()
        self.controller.finish_step()

    def _read_snrs(self, timesteps: list[float]) -> None:
        if len(set(timesteps)) == len(timesteps):
            self.snrs = [scheduler_snr(self.scheduler, timestep) for timestep in timesteps]

    def _snr(self, step: int, timestep: float) -> float:
        # The step that the scheduler has reached distinguishes equal timesteps.
        return self.snrs[step] if self.snrs else scheduler_snr(self.scheduler, timestep)

    def _latent(self, hidden_states: Tensor) -> Tensor:
        if self.controller.config.branch_mode == "independent":
            return hidden_states
        return hidden_states[: len(hidden_states) // self.num_branches]
