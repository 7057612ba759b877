"""A sampling run: opens a controller step before each step's first call of the transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dqar.control.controller import DQARController
from dqar.integration.guidance.found import (
    BranchOfCall,
    DeclaredGuidance,
    FoundGuidance,
    Guidance,
    latent_of_samples,
)
from dqar.integration.guidance.model_call import ModelCall
from dqar.integration.guidance.prompt_length import prompt_lengths
from dqar.integration.schedule_position import SchedulePosition
from dqar.records import Step
from dqar.snr import gate_snr


class Run:
    """One sampling run of a controller, which opens a step before each step's first call.

    Args:
        scheduler: a diffusers scheduler, whose timesteps are read at the first call.
        num_branches: number of guidance branches stacked in each batch, with one call a step; None
            if the calls are to show how the pipeline guides.
        prompt_length: tokens of the prompt, one number or one for each sample; None if the first
            call is to show it.
        expected_samples: number of samples, for ``num_branches=None``, where it is known.
        order: names of two stacked branches, in their order in the batch; empty if unknown.
    """

    def __init__(
        self,
        scheduler: Any,
        controller: DQARController,
        num_branches: int | None = None,
        prompt_length: int | Tensor | None = None,
        *,
        expected_samples: int | None = None,
        order: tuple[str, ...] = (),
    ) -> None:
        self.scheduler = scheduler
        self.controller = controller
        self.prompt_length = prompt_length
        self.order = order
        self.position = SchedulePosition(scheduler)
        self.guidance: Guidance = (
            FoundGuidance(expected_samples)
            if num_branches is None
            else DeclaredGuidance(num_branches)
        )
        self.num_rows = 0
        """Rows of the current call's batch."""
        self.snrs: list[float | None] = []
        """Signal-to-noise ratio at each step; empty where no scheduler is known."""

    def before_call(self, call: ModelCall) -> None:
        """Open the controller's step of a call, or go on with the open one.

        Raises:
            ValueError: if the timestep is not the scheduler's next one, if the batch is not that of
                the first call, or if the gate reads an SNR that the scheduler does not have.
        """
        is_first = self.position.step is None
        begins_step = is_first or not self.guidance.is_repeat(call)
        if begins_step:
            self.position.advance(call.timestep)
        else:
            self._refuse_branches_apart()
            self.position.repeat(call.timestep)
        if is_first:
            self.guidance.begin(call)
        branch = self.guidance.enter(call, begins_step=begins_step)
        self.num_rows = call.rows
        if is_first:
            self._begin(call)
        if begins_step:
            self._open_step(call)
        if branch is not None:
            self._begin_call(branch, call)

    def after_call(self, output: Any) -> Any:
        """Return the transformer's output ``[r, ...]``, corrected by the error feedback.

        Raises:
            ValueError: with feedback, if the rows are tensors of several shapes.
        """
        if isinstance(output, Tensor):
            return self.controller.corrected(output)
        if not self.controller.config.feedback and self.controller.feedback is None:
            return output
        if not isinstance(output, list) or len({one.shape for one in output}) != 1:
            raise ValueError(
                "Error feedback must see rows of one shape. Got "
                f"{type(output).__name__} of others. Pass feedback=0.0."
            )
        return [*self.controller.corrected(torch.stack(output))]

    def finish(self) -> None:
        """Close the last step.

        Raises:
            ValueError: if its timestep was not the scheduler's.
        """
        self.position.finish()
        self.controller.finish_step()

    def _begin(self, call: ModelCall) -> None:
        self._read_snrs(self.position.timesteps)
        self.controller.branches = names = self._names(self.guidance.num_stacked)
        if self.prompt_length is None:
            self.prompt_length = prompt_lengths(call, self.guidance.num_samples, names)
        self.controller.begin_run()

    def _names(self, num_stacked: int) -> tuple[str, ...]:
        """Names of the stacked branches, in their order in the batch."""
        if num_stacked == len(self.order):
            return self.order
        if num_stacked > 1 and self.controller.config.cross_branch_threshold is not None:
            raise ValueError(
                "cross_branch_threshold must come with two branches whose order is known. Got "
                f"{num_stacked} stacked ones. Pass branches=('uncond', 'cond') if the pipeline "
                "stacks them so, or leave cross_branch_threshold out."
            )
        return tuple(f"branch {place}" for place in range(num_stacked)) if num_stacked > 1 else ()

    def _open_step(self, call: ModelCall) -> None:
        step, now = self.position.step or 0, self.position.now
        snr = self.snrs[step] if self.snrs else None
        opening = Step(index=step, total=self.position.total, timestep=now, snr=snr)
        is_tied = self.controller.config.branch_mode == "tied"
        columns = self.guidance.num_samples if is_tied else call.rows
        latent = latent_of_samples(call, columns)
        assert self.prompt_length is not None
        self.controller.open_step(opening, self.prompt_length, latent=latent, num_samples=columns)

    def _begin_call(self, branch: BranchOfCall, call: ModelCall) -> None:
        self.controller.begin_call(
            branch.name,
            num_rows=call.rows,
            layers=call.layers,
            is_new=branch.has_new_conditions,
        )

    def _refuse_branches_apart(self) -> None:
        config = self.controller.config
        if config.branch_mode != "tied" or config.cross_branch_threshold is not None:
            raise ValueError(
                "Branches must be tied, and not share values, where a pipeline calls the model "
                f"once for each. Got branch_mode={config.branch_mode!r}, cross_branch_threshold="
                f"{config.cross_branch_threshold}. Leave both out of the configuration."
            )

    def _read_snrs(self, timesteps: list[float]) -> None:
        reader = self.controller.snr_reader
        self.snrs = [
            gate_snr(self.scheduler, timestep, reader, step=step)
            for step, timestep in enumerate(timesteps)
        ]
