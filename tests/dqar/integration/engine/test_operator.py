"""Sites with any streams are one operator each of a compiled model."""

from __future__ import annotations

import pytest
import torch

from dqar.gates.rules import Interval, MaskGate
from tests.dqar.integration.engine.driver import STEPS, Sampled
from tests.dqar.integration.engine.models import CASES

# Dynamo imports PyTorch modules that warn about deprecated ones.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.usefixtures("dynamo"),
]
EVERYONE = [0, 1, 2]
OPERATORS = {
    ("sd3", "attn"): 3,
    ("sd3", "block"): 3,
    ("flux", "stack"): 5,
    ("flux", "attn"): 5,
    ("wan", "stack"): 3,
    ("ltx", "block"): 3,
    ("sana", "ff"): 3,
}
"""Operators of a graph, by family and site."""


@pytest.mark.parametrize(("name", "site"), OPERATORS)
def test_a_compiled_model_is_the_uncompiled_one(name, site, graphs):
    case, sites = CASES[name], (site,)
    model = case.build()
    mask = torch.zeros(STEPS, 1, 3, dtype=torch.bool)
    mask[2:, :, 1] = True
    for gate in (Interval(2), MaskGate(mask)):
        uncompiled = Sampled(case, model, sites, gate, EVERYONE)
        torch._dynamo.reset()
        graphs.count, graphs.targets = 0, []
        compiled = torch.compile(model, backend=graphs)
        found = Sampled(case, model, sites, gate, EVERYONE, called=compiled)
        assert torch.equal(found.latents, uncompiled.latents)
        assert found.controller.summary() == uncompiled.controller.summary()
        assert sum("dqar" in target for target in graphs.targets) == OPERATORS[name, site]
