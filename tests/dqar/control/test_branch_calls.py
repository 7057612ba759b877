"""Separate calls for each guidance branch share a step's decisions and keep separate entries."""

from __future__ import annotations

import torch

from dqar import DQARConfig, DQARController
from dqar.cache.site_tensors import Fresh
from dqar.gate_table import GateTable, StackShape
from dqar.gates.rules import Interval

TWO = (
    StackShape(name="high", num_layers=1, sites=("block",)),
    StackShape(name="low", num_layers=1, sites=("block",)),
)


class Model:
    """A model of one layer whose value is the branch's number plus a tenth of the step."""

    def __init__(self, controller):
        self.controller = controller
        self.computed = []

    def call(self, branch, value, rows=2, layer=0, **options):
        controller = self.controller
        controller.begin_call(branch, num_rows=rows, **options)

        def compute(asked):
            self.computed.append(branch)
            whole = torch.full((rows, 1, 1), value)
            return Fresh(parts={"output": whole if asked is None else whole[asked]})

        return controller.through(layer, controller.config.sites[0], compute)["output"][0].item()


def started(sites=("block",), table=None, **options):
    config = DQARConfig(sites=sites, quantization_bits=32, **options)
    controller = DQARController(config, gate=Interval(2))
    controller.bind(table or 1)
    return Model(controller)


def test_each_branch_reuses_its_own_value():
    model = started()
    shown = []
    for step in range(4):
        model.controller.begin_step(step, 4, num_samples=2)
        shown.append([model.call("cond", step + 1.0), model.call("uncond", step + 11.0)])
    assert shown == [[1.0, 11.0], [1.0, 11.0], [3.0, 13.0], [3.0, 13.0]]
    assert model.computed == ["cond", "uncond"] * 2
    summary = model.controller.summary()
    assert (summary.reused, summary.gates) == (4, 8)


def test_branch_that_returns_after_a_pause_computes():
    model = started()
    for step, branches in enumerate([("c", "u"), ("c",), ("c",), ("c", "u")]):
        model.controller.begin_step(step, 4, num_samples=2)
        for branch in branches:
            model.call(branch, float(step))
    assert model.computed == ["c", "u", "c", "u"]


def test_call_with_other_rows_computes_and_replaces_the_entry():
    model = started()
    shown = []
    for step, rows in enumerate([4, 2, 2, 2]):
        model.controller.begin_step(step, 4, num_samples=2)
        shown.append(model.call("stacked", float(step), rows=rows))
    assert shown == [0.0, 1.0, 2.0, 2.0]


def test_gates_of_a_transformer_that_is_not_called_do_not_count():
    model = started(table=GateTable(sites=("block",), stacks=TWO))
    for step in range(4):
        layer = step // 2
        model.controller.begin_step(step, 4, num_samples=2)
        model.call("cond", float(step), layer=layer, layers=range(layer, layer + 1))
    summary = model.controller.summary()
    assert (summary.reused, summary.gates) == (4, 8)
    assert summary.by_layer == [2, 2]


def test_feedback_is_kept_by_branch():
    model = started(feedback=1.0)
    shown = []
    for step in range(3):
        model.controller.begin_step(step, 3, num_samples=1)
        for branch, sign in (("cond", 1.0), ("uncond", -1.0)):
            model.call(branch, float(step), rows=1)
            output = torch.full((1, 1), sign * (4.0 if step == 2 else 0.0))
            shown.append(model.controller.corrected(output).item())
    # Missing sum of one reused step between outputs 0 and 4: (0 + 4) / 2 - 0 = 2.
    assert shown == [0.0, 0.0, 0.0, 0.0, 6.0, -6.0]


def test_branch_of_new_conditions_computes():
    model = started()
    for step in range(2):
        model.controller.begin_step(step, 2, num_samples=2)
        model.call("cond", float(step), is_new=step == 1)
    assert model.computed == ["cond", "cond"]
