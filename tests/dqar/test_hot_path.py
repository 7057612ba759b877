"""What the device is asked to do, and when it is waited for: counted, not timed.

Tensors on the ``meta`` device hold no values, so that reading one, or mixing it with the host's,
fails: what runs on them runs without waiting for a device.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dqar.config import DQARConfig
from dqar.controller import DQARController
from dqar.gates import AllOf, Closed, EntropyBelow, Gate, Interval, Scripted, Staleness
from dqar.integration import DQARDiTWrapper

STEPS, SAMPLES = 4, 3


class Operators(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Schedule:
    """Timesteps and alphas, on the host."""

    timesteps = torch.tensor([900, 600, 300, 0])
    alphas_cumprod = torch.linspace(0.99, 0.01, 1000)


def call(model, device="cpu"):
    rows = 2 * SAMPLES
    latents = torch.ones(rows, 1, 8, 8, device=device)
    labels = torch.ones(rows, dtype=torch.long, device=device)
    return model(latents, timestep=labels, class_labels=labels).sample


def operators_of_run(model, config, gate) -> list[list[str]]:
    """Operators of each step."""
    wrapper = DQARDiTWrapper(model, config)
    controller = DQARController(config, gate=gate)
    steps = []
    with torch.no_grad(), wrapper.run(Schedule(), num_branches=2, controller=controller):
        for _ in range(STEPS):
            with Operators() as operators:
                call(model)
            steps.append(operators.names)
    wrapper.unpatch()
    return steps


@pytest.mark.parametrize("sites", [("attn",), ("attn", "ff"), ("block",)])
def test_closed_gates_add_nothing_to_a_block(tiny_dit, sites):
    with torch.no_grad(), Operators() as stock:
        call(tiny_dit)
    deeper = copy.deepcopy(tiny_dit)
    deeper.transformer_blocks.extend(copy.deepcopy(tiny_dit.transformer_blocks))
    with torch.no_grad(), Operators() as stock_deeper:
        call(deeper)
    config = DQARConfig(enabled=False, sites=sites)
    added = [len(step) - len(stock.names) for step in operators_of_run(tiny_dit, config, None)]
    deeper_steps = operators_of_run(deeper, config, None)
    added_deeper = [len(step) - len(stock_deeper.names) for step in deeper_steps]
    # What is left belongs to the step: the same for 3 blocks and for 6.
    assert added_deeper == added


GATES: dict[str, Gate] = {
    "interval": Interval(2),
    "closed": Closed(),
    "staleness": Staleness(1),
    "plan": Scripted(torch.arange(STEPS * 3 * SAMPLES).reshape(STEPS, 3, SAMPLES) % 3 > 0),
}


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
@pytest.mark.parametrize("changes", [{}, {"cached": "kv"}, {"sites": ("block",)}], ids=str)
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_schedules_never_wait_for_the_device(tiny_dit, gate, changes, bits):
    model = copy.deepcopy(tiny_dit).to("meta")
    config = DQARConfig(quantization_bits=bits, **changes)
    wrapper = DQARDiTWrapper(model, config)
    controller = DQARController(config, gate=gate)
    with torch.no_grad(), wrapper.run(Schedule(), num_branches=2, controller=controller):
        for _ in range(STEPS):
            assert call(model, "meta").device.type == "meta"


def test_gates_that_read_the_device_copy_once_a_step(tiny_dit, monkeypatch):
    copies = []

    def copied(value: torch.Tensor) -> torch.Tensor:
        copies.append(tuple(value.shape))
        return torch.ones(value.shape)

    model = copy.deepcopy(tiny_dit).to("meta")
    controller = DQARController(gate=AllOf(EntropyBelow(2.0), Interval(2)))
    wrapper = DQARDiTWrapper(model)
    monkeypatch.setattr(torch.Tensor, "cpu", copied)
    with torch.no_grad(), wrapper.run(Schedule(), num_branches=2, controller=controller):
        for _ in range(STEPS):
            call(model, "meta")
    assert copies == [(3, SAMPLES)] * STEPS
