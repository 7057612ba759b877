"""A patched pipeline that never reuses computes the stock pipeline's bits, and so does one that is
patched and then restored."""

from __future__ import annotations

import pytest
import torch

from dqar.gates.rules import NeverReuse
from dqar.integration import patch_pipeline, unpatch_pipeline
from tests.conformance.gates import OnlySamples
from tests.conformance.sampling import WHOLE, cells, config, controller, sample


def forwards_of(model):
    """Modules whose ``forward`` is replaced, and numbers of hooks."""
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    return {
        name: ("forward" in vars(module), [len(getattr(module, kind)) for kind in hooks])
        for name, module in model.named_modules()
    }


@cells(*WHOLE)
def test_closed_gates_change_no_bit(case, pipe, references, sites):
    """Gates that refuse one by one, so that values are cached, and a gate that never reuses."""
    patch_pipeline(pipe, config(sites))
    refusing = controller(sites, OnlySamples())
    found = sample(pipe, case, controller=refusing)
    assert torch.equal(found, references.stock(case))
    assert refusing.summary().reused == 0
    assert refusing.summary().gates > 0


@pytest.mark.slow
@cells(*WHOLE)
def test_idle_controller_and_unpatched_pipeline_are_stock(case, pipe, references, sites):
    before = [forwards_of(getattr(pipe, name)) for name in case.names]
    kind = type(pipe)
    patch_pipeline(pipe, config(sites))
    assert torch.equal(
        sample(pipe, case, controller=controller(sites, NeverReuse())), references.stock(case)
    )
    unpatch_pipeline(pipe)
    assert [forwards_of(getattr(pipe, name)) for name in case.names] == before
    assert type(pipe) is kind
    assert torch.equal(sample(pipe, case), references.stock(case))
