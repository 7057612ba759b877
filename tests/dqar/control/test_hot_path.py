"""Operators, copies and waits of the device in a step, counted, not timed.

Tensors on the ``meta`` device hold no values, so that reading one, or mixing it with a host tensor,
fails. Code that runs on meta tensors therefore never waits for the device.
"""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.base import AllOf, Gate
from dqar.gates.rules import EntropyBelow, Interval, MaskGate, NeverReuse, Staleness
from dqar.integration import DQARDiTWrapper, schedule_position

STEPS, SAMPLES = 4, 3


@pytest.fixture(autouse=True)
def meta_timesteps_are_next(monkeypatch):
    """Take a timestep on the meta device, which has no value, for the schedule's next one.

    tests/dqar/integration/test_schedule_position.py counts the host's reads of timesteps.
    """
    read = schedule_position._value

    def value(timestep):
        if timestep.device.type == "meta":
            return AnyTimestep()
        return read(timestep)

    monkeypatch.setattr(schedule_position, "_value", value)


class AnyTimestep:
    """A timestep that equals each entry of a schedule."""

    def equals(self, entry):
        return True


class Operators(TorchDispatchMode):
    """A dispatch mode that lists the names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Schedule:
    """A scheduler stub with timesteps and alphas on the host."""

    timesteps = torch.tensor([900, 600, 300, 0])
    alphas_cumprod = torch.linspace(0.99, 0.01, 1000)


def call(model, step=0, device="cpu"):
    rows = 2 * SAMPLES
    latents = torch.ones(rows, 1, 8, 8, device=device)
    labels = torch.ones(rows, dtype=torch.long, device=device)
    timestep = Schedule.timesteps[step].to(device).expand(rows)
    return model(latents, timestep=timestep, class_labels=labels).sample


def operators_of_run(model, config, gate) -> list[list[str]]:
    """Return the operators of each step of a run."""
    wrapper = DQARDiTWrapper(model, config)
    controller = DQARController(config, gate=gate)
    steps = []
    with torch.no_grad(), wrapper.run(Schedule(), num_branches=2, controller=controller):
        for step in range(STEPS):
            with Operators() as operators:
                call(model, step)
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
    # The remaining operators belong to the step: their number is the same for 3 and 6 blocks.
    assert added_deeper == added


ORDERS = {
    "plain": None,
    "forecast": torch.full((SAMPLES,), 2),
    "mixed": torch.tensor([2, 0, 1]),
}
GATES: dict[str, Gate] = {
    "interval": Interval(2),
    "closed": NeverReuse(),
    "staleness": Staleness(1),
    "plan": MaskGate(torch.arange(STEPS * 3 * SAMPLES).reshape(STEPS, 3, SAMPLES) % 3 > 0),
}


CHANGES = [{}, {"cached": "kv"}, {"sites": ("block",)}]
BITS = [4, 8, 16]


def cases():
    """Yield all combinations; the quick suite has those that hold every pair of two settings'
    values."""
    places = itertools.product(range(len(GATES)), range(3), range(3), range(3))
    for gate, change, bits, order in places:
        is_quick = (bits + change + order) % 3 == gate % 3
        names = list(GATES)[gate], list(ORDERS)[order]
        values = GATES[names[0]], CHANGES[change], BITS[bits], ORDERS[names[1]]
        name = f"{names[1]}-{BITS[bits]}-{CHANGES[change]}-{names[0]}"
        yield pytest.param(*values, marks=() if is_quick else pytest.mark.slow, id=name)


@pytest.mark.parametrize(("gate", "changes", "bits", "order"), [*cases()])
def test_schedules_never_wait_for_the_device(tiny_dit, gate, changes, bits, order):
    model = copy.deepcopy(tiny_dit).to("meta")
    config = DQARConfig(quantization_bits=bits, forecast_order=0 if order is None else 2, **changes)
    wrapper = DQARDiTWrapper(model, config)
    controller = DQARController(config, gate=gate, forecast_order=order)
    with torch.no_grad(), wrapper.run(Schedule(), num_branches=2, controller=controller):
        for step in range(STEPS):
            assert call(model, step, "meta").device.type == "meta"


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
        for step in range(STEPS):
            call(model, step, "meta")
    assert copies == [(3, SAMPLES)] * STEPS


class Copies(TorchDispatchMode):
    """A dispatch mode that lists the shapes copied from the host to the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if "_to_copy" in str(func) and args[0].device.type == "cpu" != found.device.type:
            self.shapes.append(tuple(found.shape))
        return found


def copies_of_steps(model, config, order) -> list[list[tuple[int, ...]]]:
    wrapper = DQARDiTWrapper(model, config)
    controller = DQARController(config, gate=Interval(2), forecast_order=order)
    steps = []
    with torch.no_grad(), wrapper.run(Schedule(), num_branches=2, controller=controller):
        for step in range(STEPS):
            with Copies() as copies:
                call(model, step, "meta")
            steps.append(copies.shapes)
    wrapper.unpatch()
    return steps


def test_coefficients_are_copied_once_a_step_and_not_at_all_where_samples_agree(tiny_dit):
    model = copy.deepcopy(tiny_dit).to("meta")
    config = DQARConfig(forecast_order=2, quantization_bits=16)
    plain = copies_of_steps(model, DQARConfig(quantization_bits=16), None)
    assert copies_of_steps(model, config, None) == plain
    mixed = copies_of_steps(model, config, torch.tensor([2, 0, 1]))
    # The samples differ from step 3 on: 2 weights and 2 rates of 3 gates, by row.
    assert mixed == [*plain[:3], [*plain[3], (4, 3, 2 * SAMPLES)]]


def test_order_0_does_what_it_did(tiny_dit):
    plain = operators_of_run(tiny_dit, DQARConfig(forecast_order=0), Interval(2))
    first = operators_of_run(tiny_dit, DQARConfig(forecast_order=1), Interval(2))
    # Order 1 needs more operators, at computations and at reuses.
    assert [len(one) < len(other) for one, other in zip(plain, first, strict=True)][2:] == [
        True
    ] * 2
