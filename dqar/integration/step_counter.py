"""A sampling run: opens a controller step before each call of the transformer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dqar.control.controller import DQARController
from dqar.integration.schedule_position import SchedulePosition, Timestep
from dqar.records import Step
from dqar.snr import gate_snr


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
        self.num_rows = 0
        """Rows of the first call's batch."""
        self.snrs: list[float | None] = []

    def before_call(self, hidden_states: Tensor, timestep: Timestep) -> None:
        """Open the controller's step of this call.

        Args:
            hidden_states: the latents of all guidance branches, ``[r, ...]``.
            timestep: the timestep that the transformer is called with.

        Raises:
            ValueError: if the timestep is not the scheduler's next one, if the batch is not that of
                the first call, or if the gate reads an SNR that the scheduler does not have.
        """
        is_first = self.position.step is None
        step = self.position.advance(timestep)
        timesteps = self.position.timesteps
        if is_first:
            self.num_rows = len(hidden_states)
            self._read_snrs(timesteps)
            self.controller.begin_run()
        opening = Step(
            index=step, total=len(timesteps), timestep=timesteps[step], snr=self.snrs[step]
        )
        latent = self._latent(hidden_states)
        self.controller.open_step(opening, self.prompt_length, latent=latent)

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
        reader = self.controller.snr_reader
        self.snrs = [
            gate_snr(self.scheduler, timestep, reader, step=step)
            for step, timestep in enumerate(timesteps)
        ]

    def _latent(self, hidden_states: Tensor) -> Tensor:
        rows, branches = len(hidden_states), self.num_branches
        if rows != self.num_rows or rows % branches or not rows:
            raise ValueError(
                "Each call of a run must hold the first call's batch, num_branches rows a sample. "
                f"Got {rows} rows after {self.num_rows}, num_branches={branches}. Stack the "
                "guidance branches in every batch, and begin a new run where the batch changes."
            )
        if self.controller.config.branch_mode == "independent":
            return hidden_states
        return hidden_states[: len(hidden_states) // self.num_branches]
