"""The interface of a gate, and the conjunction of several gates. Gates are pure functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from dqar.policy.network import ReusePolicy
from dqar.records import DecisionReason, GateDecision, GateInputs

MEASURED = frozenset({"entropy", "log_drift", "quant_error", "log_latent_norm"})
"""Features that need computation on the model's device; a controller measures those that its gate
reads."""


class Gate(ABC):
    """A rule that decides every gate of a step at once. Pure: equal inputs, equal decisions."""

    @property
    def needs(self) -> frozenset[str]:
        """The features of :data:`MEASURED` that this gate reads."""
        return frozenset()

    @property
    def reads_snr(self) -> bool:
        """True if this gate reads ``inputs.step.known_snr``, which not every scheduler has."""
        return False

    @property
    def policies(self) -> tuple[ReusePolicy, ...]:
        """The learned policies that this gate consults."""
        return ()

    @abstractmethod
    def decide(self, inputs: GateInputs) -> GateDecision:
        """Return, for each gate and sample, ``REUSE`` or the reason to compute."""


def refuse_where(refused: Tensor, reason: DecisionReason, inputs: GateInputs) -> GateDecision:
    """Return ``reason`` where ``refused`` is true, else ``REUSE``; broadcasts to ``[g, b]``."""
    code = refused.to(torch.uint8) * int(reason)
    return GateDecision(reason=code.to(inputs.cached.device).expand(inputs.shape))


def everywhere(refused: bool, reason: DecisionReason, inputs: GateInputs) -> GateDecision:
    """Return one decision for all gates of the step: ``reason`` if ``refused``, else ``REUSE``."""
    code = int(reason) if refused else int(DecisionReason.REUSE)
    shape, device = inputs.shape, inputs.cached.device
    return GateDecision(reason=torch.full(shape, code, dtype=torch.uint8, device=device))


@final
class AllOf(Gate):
    """Reuse where all of several gates allow it; the first that refuses gives the reason."""

    def __init__(self, *gates: Gate) -> None:
        self.gates = gates

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(gate.needs for gate in self.gates))

    @property
    def reads_snr(self) -> bool:
        return any(gate.reads_snr for gate in self.gates)

    @property
    def policies(self) -> tuple[ReusePolicy, ...]:
        return tuple(policy for gate in self.gates for policy in gate.policies)

    def decide(self, inputs: GateInputs) -> GateDecision:
        reason = everywhere(False, DecisionReason.REUSE, inputs).reason
        for gate in self.gates:
            reason = torch.where(reason == DecisionReason.REUSE, gate.decide(inputs).reason, reason)
        return GateDecision(reason=reason)


def snr_reader(gate: Gate) -> str | None:
    """Return the class name of the first gate that reads the SNR; None if none does."""
    if isinstance(gate, AllOf):
        return next(filter(None, map(snr_reader, gate.gates)), None)
    return type(gate).__name__ if gate.reads_snr else None
