"""Steps of a controller: the gate decides when a step is opened, and the state of the entries is
updated when it is closed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.cache.cache import Balance
from dqar.cache.forecast_coefficients import StepCoefficients
from dqar.config import DQARConfig
from dqar.control.branch_sharing import BranchRows, BranchSharing
from dqar.control.entry_state import BRANCH_GAP
from dqar.control.manual import ManualControl
from dqar.control.open_step import OpenStep
from dqar.control.run_state import RunSettings, RunState
from dqar.control.site_execution import SiteExecutor
from dqar.control.step_log import StepLog
from dqar.gate_table import GateTable
from dqar.gates.base import MEASURED, Gate, snr_reader
from dqar.records import GateDecision, GateInputs, GateRecord, Step
from dqar.signals import log_norm
from dqar.snr import cosine_snr

CLASS_PROMPT_LENGTH = 16
"""Prompt length that stands for a class label; it makes tau(p) = tau_base."""


class StepControl(ManualControl):
    """The part of a controller that opens and closes steps; the attributes are arguments of
    :class:`dqar.DQARController`."""

    config: DQARConfig
    gate: Gate
    num_layers: int | None
    _bound: GateTable | None
    num_heads: int | None
    branches: tuple[str, ...]
    exposure: bool
    sink: Callable[[GateRecord], None] | None
    sharing: BranchSharing | None
    balance: Balance | None
    forecast_order: Int[Tensor, " s"] | None
    feedback: Float[Tensor, " s"] | None
    is_idle: bool = False
    """True while the open step needs nothing from the controller (no reuse, measurement or
    caching), so that the model runs its sites itself."""

    def _reset(self) -> None:
        self._run: RunState | None = None
        self._freed_bytes = 0
        self._open: OpenStep | None = None
        self._without_exit: int | None = None
        self._reasons: list[Tensor] = []
        self._orders_shown: list[Tensor] = []

    @property
    def needs(self) -> frozenset[str]:
        """The features of :data:`dqar.gates.base.MEASURED` that are measured."""
        return MEASURED if self.sink or self.exposure else self.gate.needs

    @property
    def snr_reader(self) -> str | None:
        """Name of the gate that reads the SNR, or of the sink, which reads it; None for neither."""
        return "A sink" if self.sink else snr_reader(self.gate)

    def begin_run(self) -> None:
        """Forget the previous run. A run that starts at step 0 needs no call of it."""
        self.drop_step()
        self._reset()

    def begin_step(
        self,
        step: int,
        total_steps: int,
        prompt_length: int | Float[Tensor, " b"] = CLASS_PROMPT_LENGTH,
        *,
        timestep: float | None = None,
        snr: float | None = None,
        latent: Float[Tensor, "b *axes"] | None = None,
        num_samples: int | None = None,
    ) -> None:
        """Close the open step, and decide every gate of the next. Step 0 clears the cache.

        Args:
            step: index of the step, from 0.
            total_steps: number of steps of the run.
            prompt_length: tokens of the prompt, one number or one for each sample; 16 for a class
                label.
            timestep: the scheduler's timestep; by default the number of remaining steps.
            snr: signal-to-noise ratio at the step; by default that of a cosine schedule.
            latent: the sampler's latent, which gives its norm and the number of samples.
            num_samples: number of samples that are decided separately; by default the length of
                ``latent``, or the number at step 0, or 1.

        Raises:
            ValueError: if the step is outside the run, the number of layers is unknown, or a
                length or number of samples does not fit.
        """
        self.finish_step()
        snr = cosine_snr(1.0 - step / total_steps) if snr is None else snr
        timestep = float(total_steps - step) if timestep is None else timestep
        opening = Step(index=step, total=total_steps, timestep=timestep, snr=snr)
        self.open_step(opening, prompt_length, latent=latent, num_samples=num_samples)

    @torch.no_grad()
    def open_step(
        self,
        step: Step,
        prompt_length: int | Float[Tensor, " b"] = CLASS_PROMPT_LENGTH,
        *,
        latent: Float[Tensor, "b *axes"] | None = None,
        num_samples: int | None = None,
    ) -> None:
        """Close the open step and open ``step``, as :meth:`begin_step` does.

        Args:
            step: its ``snr`` may be None if :attr:`snr_reader` is None.

        Raises:
            ValueError: as :meth:`begin_step`, or if the finished step entered a stack of blocks
                that no call of the run has left.
        """
        self.finish_step()
        if step.index == 0:
            self._reset()
        self._refuse_stack_without_exit()
        run = self._run_of(latent, num_samples)
        lengths = run.entries.lengths(prompt_length, self._columns_of_a_sample())
        reads = self.needs if self.sharing is None else self.needs | {BRANCH_GAP}
        inputs = run.entries.inputs(step, self._latent_norm(latent), lengths, reads)
        decision = self.gate.decide(inputs)
        if self.sharing is not None:
            decision = self.sharing.decide(inputs, decision)
        # Set last, so that a step whose arguments were refused is not open.
        self._open = self._opened_by(decision, inputs, run)
        self.is_idle = self._open.is_closed and not self.needs

    def _refuse_stack_without_exit(self) -> None:
        layer, self._without_exit = self._without_exit, None
        if layer is not None:
            raise ValueError(
                "The blocks of a reused stack must all run, the last one included. Got calls that "
                f"never ran the last block of the stack at layer {layer}, so that nothing is "
                "cached. Reuse the site block."
            )

    def _run_of(self, latent: Tensor | None, num_samples: int | None) -> RunState:
        """Return the state of the run, made at its first step."""
        if num_samples is None:
            num_samples = len(latent) if latent is not None else 1
            if self._run is not None and latent is None:
                num_samples = self._run.entries.shape[1]
        if self._run is None:
            settings = RunSettings(
                config=self.config,
                balance=self.balance,
                forecast_order=self.forecast_order,
                feedback=self.feedback,
            )
            self._run = RunState.of(
                settings,
                table=self._table(),
                num_heads=self.num_heads,
                columns_of_a_sample=self._columns_of_a_sample(),
                num_samples=num_samples,
                device=torch.device("cpu") if latent is None else latent.device,
            )
        if self._run.entries.shape[1] != num_samples:
            raise ValueError(
                "The number of samples must stay the same from step 0 on. Got "
                f"{num_samples} after {self._run.entries.shape[1]}. Begin a new run with step 0."
            )
        return self._run

    def _table(self) -> GateTable:
        """Gates of the model, from the arguments or from the patched model.

        Raises:
            ValueError: if the number of layers is unknown.
        """
        if self._bound is not None:
            return self._bound
        if self.num_layers is None:
            raise ValueError(
                "num_layers must be known before the first step. Got None. "
                "Pass num_layers=, or attach the controller to a model."
            )
        return GateTable.regular(self.config.sites, self.num_layers)

    def _latent_norm(self, latent: Tensor | None) -> Tensor | None:
        if latent is None or "log_latent_norm" not in self.needs:
            return None
        return log_norm(latent)

    def _columns_of_a_sample(self) -> int:
        return 1 if self.config.branch_mode == "tied" else max(1, len(self.branches))

    def _opened_by(self, decision: GateDecision, inputs: GateInputs, run: RunState) -> OpenStep:
        codes, log = decision.reason.tolist(), StepLog(decision)
        executor = SiteExecutor(
            history=run.history,
            step_log=log,
            codes=codes,
            branches=BranchRows(branches=self.branches, num_samples=inputs.shape[1]),
            needs=self.needs,
            shares_branches=self.sharing is not None,
            exposure=self.exposure,
            step=inputs.step.index,
            coefficients=StepCoefficients.of(inputs, self.config.forecast_order),
            by_hand=run.by_hand,
            calls=run.calls,
        )
        return OpenStep(inputs=inputs, codes=codes, log=log, executor=executor, entries=run.entries)

    def _opened(self) -> OpenStep:
        if self._open is None:
            raise ValueError("A step must be open. Got none. Call begin_step first.")
        return self._open

    def finish_step(self) -> None:
        """Close the open step: update the state of the entries, and pass the record to the sink.
        Without an open step nothing happens."""
        if self._open is None:
            return
        opened, log = self._open, self._open.log
        computed = log.computed
        reused = log.reused_beside(computed)
        self._reasons.append(log.outcome_beside(reused))
        self._orders_shown.append(opened.inputs.order)
        if self.sink is not None:
            self.sink(
                GateRecord(
                    inputs=opened.inputs, decision=log.decision, local_rel_error=log.local_error
                )
            )
        opened.entries.close_step(opened.inputs.step, computed, reused, log.measured, log.compared)
        self._without_exit = opened.stack_without_exit()
        self._open = None

    def drop_step(self) -> None:
        """Discard the open step, as after an exception: neither the state of the entries nor the
        sink receives it."""
        self._open = None
