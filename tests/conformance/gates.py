"""A gate of some samples."""

from __future__ import annotations

from typing import final

import torch

from dqar.gates.base import Gate, refuse_where
from dqar.records import DecisionReason, GateDecision, GateInputs


@final
class OnlySamples(Gate):
    """Reuse for some samples of the batch wherever a value is cached, never for the others."""

    def __init__(self, *samples: int) -> None:
        self.samples = samples

    def decide(self, inputs: GateInputs) -> GateDecision:
        refused = torch.ones(inputs.shape, dtype=torch.bool)
        refused[:, list(self.samples)] = False
        return refuse_where(refused, DecisionReason.SCRIPT, inputs)
