"""A sampling run: counts the transformer's calls, and opens a controller step before each."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dqar.control.controller import DQARController
from dqar.snr import scheduler_snr


class Run:
    """One sampling run of a controller: each call of the transformer is one step.

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
        self.calls = 0
        self.timesteps: list[float] = []
        self.snrs: list[float] = []

    def before_call(self, hidden_states: Tensor) -> None:
        """Open the next step of the controller.

        Args:
            hidden_states: the latents of all guidance branches, ``[r, ...]``.

        Raises:
            ValueError: if the scheduler has no more steps.
        """
        if not self.calls:
            self._read_schedule()
        if self.calls >= len(self.timesteps):
            raise ValueError(
                f"A run must call the model once a step. Got call {self.calls + 1} of "
                f"{len(self.timesteps)} steps. Begin a new run for each sample call."
            )
        self.controller.begin_step(
            self.calls,
            len(self.timesteps),
            self.prompt_length,
            timestep=self.timesteps[self.calls],
            snr=self._snr(),
            latent=self._latent(hidden_states),
        )
        self.calls += 1

    def after_call(self, output: Tensor) -> Tensor:
        """Return the transformer's output ``[r, ...]``, corrected by the error feedback."""
        return self.controller.corrected(output)

    def _read_schedule(self) -> None:
        # Read once a run, since a scheduler may hold its timesteps on the device.
        self.timesteps = [float(timestep) for timestep in self.scheduler.timesteps.tolist()]
        if len(set(self.timesteps)) == len(self.timesteps):
            self.snrs = [scheduler_snr(self.scheduler, timestep) for timestep in self.timesteps]

    def _snr(self) -> float:
        if self.snrs:
            return self.snrs[self.calls]
        # The step that the scheduler has reached tells equal timesteps apart.
        return scheduler_snr(self.scheduler, self.timesteps[self.calls])

    def _latent(self, hidden_states: Tensor) -> Tensor:
        if self.controller.config.branch_mode == "independent":
            return hidden_states
        return hidden_states[: len(hidden_states) // self.num_branches]
