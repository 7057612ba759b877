"""The gate interface and its composition: gates decide and touch nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from dqar.policy.network import ReusePolicy
from dqar.records import DecisionReason, GateDecision, GateInputs

MEASURED = frozenset({"entropy", "log_drift", "quant_error", "log_latent_norm"})
"""Features that cost device work; the controller measures only what is needed."""


class Gate(ABC):
    """One question about every gate of a step. Pure: same signal, same verdict."""

    @property
    def needs(self) -> frozenset[str]:
        """Which of :data:`MEASURED` this gate reads."""
        return frozenset()

    @property
    def policies(self) -> tuple[ReusePolicy, ...]:
        """The policies that decide here."""
        return ()

    @abstractmethod
    def decide(self, inputs: GateInputs) -> GateDecision:
        """Reuse, or the reason not to, for each gate and sample."""


def refuse_where(refused: Tensor, reason: DecisionReason, inputs: GateInputs) -> GateDecision:
    """Refuse with ``reason`` where ``refused`` (which broadcasts to ``[g, b]``), else reuse."""
    code = refused.to(torch.uint8) * int(reason)
    return GateDecision(reason=code.to(inputs.cached.device).expand(inputs.shape))


def everywhere(refused: bool, reason: DecisionReason, inputs: GateInputs) -> GateDecision:
    """Refuse every gate of the step with ``reason``, or reuse at each."""
    code = int(reason) if refused else int(DecisionReason.REUSE)
    shape, device = inputs.shape, inputs.cached.device
    return GateDecision(reason=torch.full(shape, code, dtype=torch.uint8, device=device))


@final
class AllOf(Gate):
    """Reuse where every gate agrees; the first that refuses gives the reason."""

    def __init__(self, *gates: Gate) -> None:
        self.gates = gates

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(gate.needs for gate in self.gates))

    @property
    def policies(self) -> tuple[ReusePolicy, ...]:
        return tuple(policy for gate in self.gates for policy in gate.policies)

    def decide(self, inputs: GateInputs) -> GateDecision:
        reason = everywhere(False, DecisionReason.REUSE, inputs).reason
        for gate in self.gates:
            reason = torch.where(reason == DecisionReason.REUSE, gate.decide(inputs).reason, reason)
        return GateDecision(reason=reason)
