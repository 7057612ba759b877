"""The reuse rules: pure functions from :class:`GateInputs` to :class:`GateDecision`.

Each rule is a small final class, and :class:`dqar.gates.base.AllOf` composes several; the DQAR
paper's cascade of eight is :func:`dqar.gates.paper_cascade.paper_cascade`. A rule decides all gates
of a step in one batch.
"""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dqar.gate_table import GateTable
from dqar.gates.base import MEASURED, Gate, everywhere, refuse_where
from dqar.layer_schedule import LayerSchedule
from dqar.policy.network import ReusePolicy
from dqar.records import SITES, DecisionReason, GateDecision, GateInputs

WITHOUT_ENTROPY = ("ff", "ff_context")
"""Sites without attention."""

ROUNDING = 1e-9
"""Tolerance, in steps, of ``fraction * total``: 0.07 * 100 is 7.000000000000001 in floating point,
and must count 7 steps."""


def _beside(parameter: Any, inputs: GateInputs) -> Any:
    """Move a gate's parameter to the device of its inputs."""
    return parameter.to(inputs.cached.device) if isinstance(parameter, Tensor) else parameter


@final
class NeverReuse(Gate):
    """Never reuse."""

    def decide(self, inputs: GateInputs) -> GateDecision:
        return everywhere(True, DecisionReason.CLOSED, inputs)


@final
class RequireCached(Gate):
    """Refuse where nothing is cached."""

    def decide(self, inputs: GateInputs) -> GateDecision:
        return refuse_where(~inputs.cached, DecisionReason.COLD, inputs)


@final
class Warmup(Gate):
    """Refuse the first ``ceil(fraction * total)`` steps."""

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction

    def decide(self, inputs: GateInputs) -> GateDecision:
        is_early = inputs.step.index < self.fraction * inputs.step.total - ROUNDING
        return everywhere(is_early, DecisionReason.WARMUP, inputs)


@final
class Cooldown(Gate):
    """Refuse the last ``ceil(fraction * total)`` steps."""

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction

    def decide(self, inputs: GateInputs) -> GateDecision:
        steps_left = inputs.step.total - inputs.step.index
        is_late = steps_left - 1 < self.fraction * inputs.step.total - ROUNDING
        return everywhere(is_late, DecisionReason.COOLDOWN, inputs)


@final
class Scheduled(Gate):
    """Refuse layers that the layer schedule has not reached."""

    def __init__(self, schedule: LayerSchedule) -> None:
        self.schedule = schedule

    @property
    def reads_snr(self) -> bool:
        return self.schedule.deep_layer_snr_threshold is not None

    def decide(self, inputs: GateInputs) -> GateDecision:
        progress = inputs.step.progress
        snr = inputs.step.known_snr if self.reads_snr else 0.0
        reached = self.schedule.eligible(inputs.layer, progress, inputs.num_layers, snr)
        return refuse_where(~reached[:, None], DecisionReason.SCHEDULE, inputs)


@final
class Staleness(Gate):
    """Refuse values computed more than ``max_gap`` steps ago."""

    def __init__(self, max_gap: int | Int[Tensor, " b"]) -> None:
        self.max_gap = max_gap

    def decide(self, inputs: GateInputs) -> GateDecision:
        return refuse_where(
            inputs.gap > _beside(self.max_gap, inputs), DecisionReason.STALE, inputs
        )


@final
class MaxReuses(Gate):
    """Refuse a cached value that was reused ``max_reuses`` times since it was computed."""

    def __init__(self, max_reuses: int) -> None:
        self.max_reuses = max_reuses

    def decide(self, inputs: GateInputs) -> GateDecision:
        return refuse_where(inputs.reuses >= self.max_reuses, DecisionReason.BUDGET, inputs)


@final
class EntropyBelow(Gate):
    """Refuse where the attention entropy is not below ``tau(p) = tau_base * sqrt(p / 16)`` for a
    prompt of p tokens, or was never measured. A feed-forward has no entropy and passes."""

    def __init__(self, tau_base: float | Float[Tensor, " b"], adaptive: bool = True) -> None:
        self.tau_base = tau_base
        self.adaptive = adaptive

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"entropy"})

    def decide(self, inputs: GateInputs) -> GateDecision:
        stretch = (inputs.prompt_length / 16.0).sqrt() if self.adaptive else 1.0
        is_below = inputs.entropy < _beside(self.tau_base, inputs) * stretch
        # 0 stands for "not measured"; measured entropy is not exactly 0. NaN is not below tau.
        codes = torch.tensor([SITES.index(site) for site in WITHOUT_ENTROPY])
        has_none = torch.isin(inputs.site, codes.to(inputs.site.device))[:, None]
        is_fine = has_none | (is_below & (inputs.entropy > 0))
        return refuse_where(~is_fine, DecisionReason.ENTROPY, inputs)


@final
class SnrBand(Gate):
    """Refuse outside the SNR window ``[low, high]``; the ends may be one number for each sample."""

    def __init__(self, low: float | Float[Tensor, " b"], high: float | Float[Tensor, " b"]) -> None:
        self.low = torch.as_tensor(low)
        self.high = torch.as_tensor(high)

    @property
    def reads_snr(self) -> bool:
        return True

    def decide(self, inputs: GateInputs) -> GateDecision:
        snr = inputs.step.known_snr
        is_inside = (snr >= self.low) & (snr <= self.high)
        return refuse_where(~is_inside.to(inputs.cached.device), DecisionReason.SNR, inputs)


@final
class Learned(Gate):
    """Refuse where the policy's reuse probability is below ``min_probability``, or where the
    cached value is older than any that the policy was trained on.

    ``log_threshold`` may be one number for each sample, so that one batch measures several
    operating points.
    """

    def __init__(
        self,
        policy: ReusePolicy,
        *,
        log_threshold: float | Float[Tensor, " b"] | None = None,
        min_probability: float = 0.5,
    ) -> None:
        self.policy = policy
        self.log_threshold = log_threshold
        self.min_probability = min_probability

    @property
    def needs(self) -> frozenset[str]:
        return MEASURED & frozenset(self.policy.spec.features)

    @property
    def reads_snr(self) -> bool:
        return "log_snr" in self.policy.spec.features

    @property
    def policies(self) -> tuple[ReusePolicy, ...]:
        return (self.policy,)

    def decide(self, inputs: GateInputs) -> GateDecision:
        policy = self.policy.to(inputs.cached.device)
        threshold = self.log_threshold
        if threshold is not None:
            threshold = _beside(threshold, inputs)
        probability = policy.probability(inputs, threshold)
        is_known = inputs.gap <= self.policy.spec.max_gap
        is_likely = probability >= self.min_probability
        return refuse_where(~(is_known & is_likely), DecisionReason.POLICY, inputs)


@final
class Interval(Gate):
    """Compute every ``period``-th step and reuse at the steps between, as FORA (Selvaraju et al.
    2024) and PAB (Zhao et al. 2024) do."""

    def __init__(self, period: int) -> None:
        self.period = period

    def decide(self, inputs: GateInputs) -> GateDecision:
        return everywhere(inputs.step.index % self.period == 0, DecisionReason.INTERVAL, inputs)


@final
class MaskGate(Gate):
    """Reuse where a mask is true; used for exploration, replay of traces and static plans.

    Args:
        reuse: decisions by step, gate and sample; a single gate or sample stands for all.
        table: gates of the model that the mask is for; None for any model with as many.
    """

    def __init__(self, reuse: Bool[Tensor, "t g b"], table: GateTable | None = None) -> None:
        self.reuse = reuse
        self.table = table

    def decide(self, inputs: GateInputs) -> GateDecision:
        if inputs.step.total != len(self.reuse):
            raise ValueError(
                f"A reuse mask must be of the run's {inputs.step.total} steps. Got one of "
                f"{len(self.reuse)}. Sample with {len(self.reuse)} steps."
            )
        gates = self.reuse.shape[1]
        if gates not in (1, inputs.shape[0]):
            raise ValueError(
                f"A reuse mask must be of the model's {inputs.shape[0]} gates. Got one of {gates}. "
                "Follow a plan of this model and of these sites."
            )
        if self.table is not None:
            _refuse_other_gates(self.table, inputs)
        wanted = _beside(self.reuse[inputs.step.index], inputs)
        return refuse_where(~wanted, DecisionReason.SCRIPT, inputs)


def _refuse_other_gates(table: GateTable, inputs: GateInputs) -> None:
    is_same = (
        table.num_layers == inputs.num_layers
        and torch.equal(table.site_codes, inputs.site.cpu())
        and torch.equal(table.layers, inputs.layer.cpu())
    )
    if not is_same:
        raise ValueError(
            "The plan must be of a model with the same sites in the same layers. Got one of "
            f"{table.num_gates} gates and {table.num_layers} layers for {inputs.shape[0]} gates "
            f"and {inputs.num_layers} layers. Export a plan for this model."
        )
