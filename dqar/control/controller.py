"""The controller acts on what the gates decide. It alone touches the cache.

The seed's other verbs drive one site at a time by hand (:mod:`dqar.control.manual`);
:meth:`DQARController.through` is the same in one call, for a module that can compute some rows of a
batch.
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
"""Prompt length of a class-conditional model, so that tau(p) = tau_base."""


class DQARController(ManualControl):
    """Runs the gates once a step and keeps the cache.

    Args:
        config: gate, cache and schedule values.
        num_layers: transformer blocks; an integration fills it in with :meth:`bind`.
        num_heads: attention heads, for a cache with scales per head; likewise.
        gate: replaces the seed's cascade that ``config`` describes.
        policy: the last gate of that cascade.
        exposure: compute every site, so that the local error is known, and let the verdict
            decide only what the sampler sees.
        sink: receives a :class:`GateRecord` after each step. With a sink every feature is
            measured; without one, only what the gate needs.
        balance: salience balance factors of the cache, from
            :func:`dqar.integration.calibrate_balance`.
        forecast_order: one a sample, none above the configuration's, in its place.
        feedback: one a sample, in the configuration's place.
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
        """Whether this step's sites are left to the model: nothing to reuse, measure or keep."""
        self.balance = balance
        self.forecast_order = forecast_order
        self.feedback = feedback
        self.sharing = BranchSharing.of(self.config, exposure=exposure)
        self._reset()

    def _reset(self) -> None:
        self.history = History.of({}, None, 0)
        self._feedback = ErrorFeedback(0.0)
        self._ledger: EntryState | None = None
        self._step: Step | None = None
        self._asked: list[Tensor] = []
        self._orders_shown: list[Tensor] = []

    @classmethod
    def of_policy(cls, policy: ReusePolicy, **options: Any) -> DQARController:
        """A controller that a policy decides for alone, on the sites, with the cache and the
        forecasts that it was trained with; patch the model for its :attr:`config`.

        Args:
            options: as for the constructor.
        """
        return cls(policy_config(policy.spec), gate=policy_gate(policy), **options)

    @property
    def cache(self) -> ReuseCache:
        """The cached values as they were computed."""
        return self.history.values

    @property
    def needs(self) -> frozenset[str]:
        """What is measured of :data:`dqar.gates.base.MEASURED`."""
        return MEASURED if self.sink or self.exposure else self.gate.needs

    def bind(
        self, num_layers: int, num_heads: int | None = None, branches: tuple[str, ...] = ()
    ) -> None:
        """Tell what the model is like. Refuses a controller bound to another depth.

        Args:
            branches: guidance branches in the order in which the batch stacks them.
        """
        if self.num_layers not in (None, num_layers):
            raise ValueError(
                f"num_layers must be the model's. Got {self.num_layers} for a model of "
                f"{num_layers}. Make a controller for each model."
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
        """Decide every gate of a step. Step 0 forgets the previous run.

        Args:
            prompt_length: tokens of the prompt, one for all or one a sample.
            timestep: the scheduler's timestep; steps to go by default.
            snr: estimated from a cosine schedule when not given.
            latent: the sampler's latent, for its norm and for the number of samples.
            num_samples: decisions side by side; 1 by default.
        """
        self.finish_step()
        if step == 0:
            self._reset()
        snr = cosine_snr(1.0 - step / total_steps) if snr is None else snr
        timestep = float(total_steps - step) if timestep is None else timestep
        opening = Step(index=step, total=total_steps, timestep=timestep, snr=snr)
        entry_state = self._open_ledger(latent, num_samples)
        lengths = entry_state.lengths(prompt_length, self._columns_of_a_sample())
        self._signal = entry_state.inputs(
            opening, self._latent_norm(latent), lengths, self._reads()
        )
        self._decide(self.gate.decide(self._signal))
        # Last, so that a step that was refused is not open.
        self._step = opening

    def _open_ledger(self, latent: Tensor | None, num_samples: int | None) -> EntryState:
        if num_samples is None:
            num_samples = len(latent) if latent is not None else 1
            if self._ledger is not None and latent is None:
                num_samples = self._ledger.shape[1]
        if self._ledger is None:
            device = torch.device("cpu") if latent is None else latent.device
            formats, kept = self.config.cache_formats(self.num_heads), self.config.forecast_order
            self.history = History.of(formats, self.balance, kept)
            columns = (self._columns_of_a_sample(), num_samples)
            order = orders_of(self.config, self.forecast_order, *columns)
            gain = gains_of(self.config, self.feedback, *columns)
            shape = (self._depth(), num_samples)
            self._ledger = EntryState(self.config.sites, *shape, device, order, gain)
            self._by_hand = ManualForecastHistory(self._ledger.wanted_order, kept)
            self._feedback = ErrorFeedback(gain)
        if self._ledger.shape[1] != num_samples:
            raise ValueError(
                "The number of samples must stay the same from step 0 on. Got "
                f"{num_samples} after {self._ledger.shape[1]}. Begin a new run with step 0."
            )
        return self._ledger

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
        # A run that never reuses has no use for a cache either.
        is_closed = all(code == DecisionReason.CLOSED for codes in self._codes for code in codes)
        self.is_idle = is_closed and not self.needs
        self._tape = StepLog(decision)
        self._passage = SiteExecutor(
            history=self.history,
            step_log=self._tape,
            codes=self._codes,
            branches=BranchRows(branches=self.branches, num_samples=self._signal.shape[1]),
            needs=self.needs,
            shares_branches=self.sharing is not None,
            exposure=self.exposure,
            step=self._signal.step.index,
            coefficients=StepCoefficients.of(self._signal, self.config.forecast_order),
            by_hand=self._by_hand,
        )

    def _books(self) -> EntryState:
        if self._ledger is None or self._step is None:
            raise ValueError("A step must be open. Got none. Call begin_step first.")
        return self._ledger

    def through(self, layer: int, site: str, compute: Compute) -> Parts:
        """A site's parts for the whole stacked batch: computed, reused, or some rows of each. Not
        to be written to, and good until the step ends: what is reused may be the cache's own."""
        gate = self._books().gate(site, layer)
        return self._passage.through(EntryKey(site, layer), gate, compute)

    def corrected(self, output: Float[Tensor, "r *axes"]) -> Float[Tensor, "r *axes"]:
        """What the sampler is to see in place of the model's output at the open step, which is the
        output itself unless there is something to make up for; call it once a step."""
        self._books()
        if not self._feedback.is_on:
            return output
        reused = torch.tensor(self._codes) == DecisionReason.REUSE
        return self._feedback.through(output, reused.double().mean(dim=0))

    def finish_step(self) -> None:
        """Close the step that is open: enter it into the books and tell the sink."""
        if self._step is None or self._ledger is None:
            return
        step_log = self._tape
        self._asked.append(step_log.outcome)
        self._orders_shown.append(self._signal.order)
        if self.sink is not None:
            error = step_log.local_error
            self.sink(
                GateRecord(inputs=self._signal, decision=step_log.decision, local_rel_error=error)
            )
        self._ledger.close_step(
            self._step, step_log.computed, step_log.reused, step_log.measured, step_log.compared
        )
        self._step = None

    def drop_step(self) -> None:
        """Forget a step that was broken off; nothing of it reaches the books or the sink."""
        self._step = None

    def summary(self) -> ReuseSummary:
        """What fired since step 0, as far as the open step has come."""
        asked, orders = self._asked, self._orders_shown
        if self._step is not None:
            asked, orders = [*asked, self._tape.outcome], [*orders, self._signal.order]
        kept = self.history.nbytes + self._feedback.nbytes
        return summarize(asked, self.config.sites, self._depth(), kept, orders)
