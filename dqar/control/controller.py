"""The DQAR controller: runs the gate once a step, and serves the sites of a model from the cache.

A patched model calls :meth:`DQARController.through` once for each site. A hand-written model calls
the DQAR paper's ``should_reuse``, ``commit`` and ``reuse`` instead (:mod:`dqar.control.manual`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.cache.cache import Balance, ReuseCache
from dqar.cache.forecast_coefficients import ManualForecastHistory, StepCoefficients
from dqar.cache.history import History
from dqar.cache.site_tensors import Compute, Parts
from dqar.config import DQARConfig
from dqar.control.branch_sharing import BranchRows, BranchSharing
from dqar.control.entry_state import BRANCH_GAP, EntryState
from dqar.control.error_feedback import ErrorFeedback
from dqar.control.manual import ManualControl
from dqar.control.per_sample import gains_of, orders_of
from dqar.control.site_execution import SiteExecutor
from dqar.control.step_log import StepLog
from dqar.control.summary import ReuseSummary, summarize
from dqar.gates.base import MEASURED, AllOf, Gate
from dqar.gates.paper_cascade import paper_cascade, policy_config, policy_gate
from dqar.gates.rules import RequireCached
from dqar.policy.network import ReusePolicy
from dqar.records import DecisionReason, EntryKey, GateDecision, GateRecord, Step
from dqar.signals import log_norm
from dqar.snr import cosine_snr

CLASS_PROMPT_LENGTH = 16
"""Prompt length that stands for a class label; it makes tau(p) = tau_base."""


class DQARController(ManualControl):
    """The controller of one sampling run at a time: decides each step, and owns the cache.

    Args:
        config: settings of gate, cache and layer schedule.
        num_layers: transformer blocks of the model; set by :meth:`bind` for a patched model.
        num_heads: attention heads of the model, for a cache with scales per head; set by
            :meth:`bind` for a patched model.
        gate: replaces the DQAR paper's cascade, which ``config`` describes.
        policy: a learned policy that becomes the last gate of the cascade.
        exposure: collection mode. Every site computes, so that the local error of a reuse is
            measured, and the decision selects only the value that the sampler sees.
        sink: receives a :class:`GateRecord` after each step. With a sink every feature is
            measured; without a sink, only the features that the gate reads.
        balance: salience balance factors of the cache, from
            :func:`dqar.integration.calibrate_balance`.
        forecast_order: a forecast order for each sample, in place of the configuration's, which
            is the largest that takes effect.
        feedback: a gain of the error feedback for each sample, in place of the configuration's.

    Raises:
        ValueError: if a policy does not fit the configuration, or if the configuration shares
            branches in exposure.
    """

    def __init__(
        self,
        config: DQARConfig | None = None,
        *,
        num_layers: int | None = None,
        num_heads: int | None = None,
        gate: Gate | None = None,
        policy: ReusePolicy | None = None,
        exposure: bool = False,
        sink: Callable[[GateRecord], None] | None = None,
        balance: Balance | None = None,
        forecast_order: Int[Tensor, " b"] | None = None,
        feedback: Float[Tensor, " b"] | None = None,
    ) -> None:
        self.config = config or DQARConfig()
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.branches: tuple[str, ...] = ()
        self.gate = AllOf(gate or paper_cascade(self.config, policy), RequireCached())
        for decides in self.gate.policies:
            decides.spec.refuse_misfit(
                self.config.sites,
                self.config.branch_mode,
                self.config.cached,
                self.config.forecast_order,
                self.config.feedback,
            )
        self.exposure = exposure
        self.sink = sink
        self.is_idle = False
        """True while the open step needs nothing from the controller (no reuse, measurement or
        caching), so that the model runs its sites itself."""
        self.balance = balance
        self.forecast_order = forecast_order
        self.feedback = feedback
        self.sharing = BranchSharing.of(self.config, exposure=exposure)
        self._reset()

    def _reset(self) -> None:
        self.history = History.of({}, None, 0)
        self._feedback = ErrorFeedback(0.0)
        self._entry_state: EntryState | None = None
        self._step: Step | None = None
        self._reasons: list[Tensor] = []
        self._orders_shown: list[Tensor] = []

    @classmethod
    def of_policy(cls, policy: ReusePolicy, **options: Any) -> DQARController:
        """Make a controller whose only gate is a policy, with the sites, cache and forecasts that
        the policy was trained with. Patch the model with the controller's :attr:`config`.

        Args:
            options: further arguments of the constructor.
        """
        return cls(policy_config(policy.spec), gate=policy_gate(policy), **options)

    @property
    def cache(self) -> ReuseCache:
        """The cache of last computed values, without their differences."""
        return self.history.values

    @property
    def needs(self) -> frozenset[str]:
        """The features of :data:`dqar.gates.base.MEASURED` that are measured."""
        return MEASURED if self.sink or self.exposure else self.gate.needs

    def bind(
        self, num_layers: int, num_heads: int | None = None, branches: tuple[str, ...] = ()
    ) -> None:
        """Set the shape of the model.

        Args:
            branches: guidance branches in the order in which the batch stacks them.

        Raises:
            ValueError: if the controller belongs to a model with another number of blocks.
        """
        if self.num_layers not in (None, num_layers):
            raise ValueError(
                f"num_layers must be the model's. Got {self.num_layers} for a model of "
                f"{num_layers} blocks. Make a controller for each model."
            )
        self.num_layers = num_layers
        self.num_heads = num_heads or self.num_heads
        self.branches = branches

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
        if step == 0:
            self._reset()
        snr = cosine_snr(1.0 - step / total_steps) if snr is None else snr
        timestep = float(total_steps - step) if timestep is None else timestep
        opening = Step(index=step, total=total_steps, timestep=timestep, snr=snr)
        entry_state = self._make_entry_state(latent, num_samples)
        lengths = entry_state.lengths(prompt_length, self._columns_of_a_sample())
        self._signal = entry_state.inputs(
            opening, self._latent_norm(latent), lengths, self._reads()
        )
        self._decide(self.gate.decide(self._signal))
        # Set last, so that a step whose arguments were refused is not open.
        self._step = opening

    def _make_entry_state(self, latent: Tensor | None, num_samples: int | None) -> EntryState:
        if num_samples is None:
            num_samples = len(latent) if latent is not None else 1
            if self._entry_state is not None and latent is None:
                num_samples = self._entry_state.shape[1]
        if self._entry_state is None:
            device = torch.device("cpu") if latent is None else latent.device
            formats, kept = self.config.cache_formats(self.num_heads), self.config.forecast_order
            self.history = History.of(formats, self.balance, kept)
            columns = (self._columns_of_a_sample(), num_samples)
            order = orders_of(self.config, self.forecast_order, *columns)
            gain = gains_of(self.config, self.feedback, *columns)
            shape = (self._depth(), num_samples)
            self._entry_state = EntryState(self.config.sites, *shape, device, order, gain)
            self._by_hand = ManualForecastHistory(self._entry_state.wanted_order, kept)
            self._feedback = ErrorFeedback(gain)
        if self._entry_state.shape[1] != num_samples:
            raise ValueError(
                "The number of samples must stay the same from step 0 on. Got "
                f"{num_samples} after {self._entry_state.shape[1]}. Begin a new run with step 0."
            )
        return self._entry_state

    def _depth(self) -> int:
        if self.num_layers is None:
            raise ValueError(
                "num_layers must be known before the first step. Got None. "
                "Pass num_layers=, or attach the controller to a model."
            )
        return self.num_layers

    def _latent_norm(self, latent: Tensor | None) -> Tensor | None:
        if latent is None or "log_latent_norm" not in self.needs:
            return None
        return log_norm(latent)

    def _columns_of_a_sample(self) -> int:
        return 1 if self.config.branch_mode == "tied" else max(1, len(self.branches))

    def _reads(self) -> frozenset[str]:
        return self.needs if self.sharing is None else self.needs | {BRANCH_GAP}

    def _decide(self, decision: GateDecision) -> None:
        if self.sharing is not None:
            decision = self.sharing.decide(self._signal, decision)
        self._codes: list[list[int]] = decision.reason.tolist()
        # A step that refuses with CLOSED belongs to a run that never reuses and needs no cache.
        is_closed = all(code == DecisionReason.CLOSED for codes in self._codes for code in codes)
        self.is_idle = is_closed and not self.needs
        self._step_log = StepLog(decision)
        self._executor = SiteExecutor(
            history=self.history,
            step_log=self._step_log,
            codes=self._codes,
            branches=BranchRows(branches=self.branches, num_samples=self._signal.shape[1]),
            needs=self.needs,
            shares_branches=self.sharing is not None,
            exposure=self.exposure,
            step=self._signal.step.index,
            coefficients=StepCoefficients.of(self._signal, self.config.forecast_order),
            by_hand=self._by_hand,
        )

    def _open_state(self) -> EntryState:
        if self._entry_state is None or self._step is None:
            raise ValueError("A step must be open. Got none. Call begin_step first.")
        return self._entry_state

    def through(self, layer: int, site: str, compute: Compute) -> Parts:
        """Return a site's parts for the whole batch, where each row is computed or reused.

        The tensors may belong to the cache: do not write to them, nor read them after the step.

        Args:
            compute: called with the rows to compute, or None for all rows; not called if every
                row reuses.

        Raises:
            ValueError: if no step is open.
        """
        gate = self._open_state().gate(site, layer)
        return self._executor.through(EntryKey(site, layer), gate, compute)

    def corrected(self, output: Float[Tensor, "r *axes"]) -> Float[Tensor, "r *axes"]:
        """Return the model's output at the open step, corrected by the error feedback. Without
        feedback, or at a step without correction, the output itself. Call it once a step."""
        self._open_state()
        if not self._feedback.is_on:
            return output
        reused = torch.tensor(self._codes) == DecisionReason.REUSE
        return self._feedback.through(output, reused.double().mean(dim=0))

    def finish_step(self) -> None:
        """Close the open step: update the state of the entries, and pass the record to the sink.
        Without an open step nothing happens."""
        if self._step is None or self._entry_state is None:
            return
        step_log = self._step_log
        self._reasons.append(step_log.outcome)
        self._orders_shown.append(self._signal.order)
        if self.sink is not None:
            error = step_log.local_error
            self.sink(
                GateRecord(inputs=self._signal, decision=step_log.decision, local_rel_error=error)
            )
        self._entry_state.close_step(
            self._step, step_log.computed, step_log.reused, step_log.measured, step_log.compared
        )
        self._step = None

    def drop_step(self) -> None:
        """Discard the open step, as after an exception: neither the state of the entries nor the
        sink receives it."""
        self._step = None

    def summary(self) -> ReuseSummary:
        """Counts of reuses and refusals since step 0, including the open step so far."""
        reasons, orders = self._reasons, self._orders_shown
        if self._step is not None:
            reasons, orders = [*reasons, self._step_log.outcome], [*orders, self._signal.order]
        kept = self.history.nbytes + self._feedback.nbytes
        return summarize(reasons, self.config.sites, self._depth(), kept, orders)
