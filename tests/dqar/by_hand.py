"""A controller without a model, and tensors that a hand-written model commits to it."""

from __future__ import annotations

from typing import Any

import torch

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.base import AllOf, Gate

OPEN = AllOf()


def controller_of(
    gate: Gate = OPEN, *, bits: Any = 32, num_layers: int | None = 1, sink: Any = None
) -> DQARController:
    config = DQARConfig(quantization_bits=bits)
    return DQARController(config, num_layers=num_layers, gate=gate, sink=sink)


def output_at(step: int) -> torch.Tensor:
    return torch.full((1, 2, 3), float(step + 1))
