"""The DQAR paper's cascade of eight gates, and the gate and configuration of a policy."""

from __future__ import annotations

from typing import Any

from dqar.config import DQARConfig
from dqar.gates.base import AllOf, Gate
from dqar.gates.planned import ScheduleGate
from dqar.gates.rules import (
    Cooldown,
    EntropyBelow,
    Learned,
    MaxReuses,
    NeverReuse,
    RequireCached,
    Scheduled,
    SnrBand,
    Staleness,
    Warmup,
)
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import CACHE_BITS, PolicySpec


def paper_cascade(config: DQARConfig, policy: ReusePolicy | None = None) -> Gate:
    """Build the DQAR talk's cascade in its order: warm-up, layer schedule, cache, staleness,
    budget, entropy, SNR, policy. A cool-down, off by default, follows the warm-up. Each gate can
    refuse on its own."""
    if not config.enabled:
        return NeverReuse()
    gates: list[Gate] = [
        Warmup(config.warmup_fraction),
        Cooldown(config.cooldown_fraction),
        Scheduled(config.layer_schedule()),
        RequireCached(),
        Staleness(config.max_gap),
        MaxReuses(config.max_reuse_per_block),
        EntropyBelow(config.entropy_threshold, config.adaptive_entropy),
        SnrBand(config.snr_low, config.snr_high),
    ]
    if policy is not None:
        gates.append(policy_gate(policy, config.min_probability))
    return AllOf(*gates)


def policy_config(spec: PolicySpec) -> DQARConfig:
    """Return the configuration that a policy was trained with."""
    trained_with: dict[str, Any] = {
        name: getattr(spec, name) for name in ("sites", "branch_mode", "forecast_order", "feedback")
    }
    return DQARConfig(**trained_with, quantization_bits=CACHE_BITS[spec.cache_mode])  # pyright: ignore[reportArgumentType] checked by the spec


def policy_gate(policy: ReusePolicy, min_probability: float = 0.5) -> Gate:
    """Return the gate that follows a policy: by its plan if it has plans, else gate by gate."""
    if policy.spec.plans:
        return ScheduleGate(policy)
    return Learned(policy, min_probability=min_probability)
