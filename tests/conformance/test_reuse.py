"""Reuse by the library equals the independent replay, at every site of every family."""

from __future__ import annotations

import pytest
import torch

from dqar.gates.base import AllOf
from dqar.gates.rules import Interval
from dqar.integration import patch_pipeline
from tests.conformance.gates import OnlySamples
from tests.conformance.replay import every_second, only_first
from tests.conformance.sampling import (
    WHOLE,
    apart,
    cells,
    config,
    controller,
    leaf_calls,
    replay,
    sample,
)

SINGLE = ("attn", "cross", "ff", "ff_context")


def run(pipe, case, sites, gate, **options):
    """Latents and controller of a run of a pipeline that is patched here."""
    steered = controller(sites, gate, **options)
    patch_pipeline(pipe, config(sites))
    return sample(pipe, case, controller=steered), steered


@cells(*WHOLE, slow=SINGLE)
def test_every_second_step_equals_the_replay(case, pipe, references, sites):
    found, steered = run(pipe, case, sites, Interval(2))
    assert torch.equal(found, references.replay(case, sites, every_second))
    # Wan 2.2 and a guidance branch that begins late compute more; nothing else does.
    assert 1 / 3 <= steered.summary().reuse_ratio <= 1 / 2


@cells(*WHOLE, slow=SINGLE)
def test_samples_of_a_mixed_batch_are_as_alone(case, pipe, references, sites):
    found, steered = run(pipe, case, sites, OnlySamples(1))
    stock, always = references.stock(case), references.replay(case, sites, only_first)
    assert steered.summary().reused > 0
    assert apart(found[0], stock[0]) <= case.tolerance
    assert apart(found[1], always[1]) <= case.tolerance


@pytest.mark.slow
@cells(*WHOLE)
def test_always_open_gate_equals_the_replay(case, pipe, references, sites):
    found, _ = run(pipe, case, sites, AllOf())
    assert torch.equal(found, references.replay(case, sites, only_first))


@pytest.mark.slow
@cells(*WHOLE)
def test_modules_are_called_as_often_as_planned(case, references, sites):
    planned, steered = references.pipe(case), references.pipe(case)
    with leaf_calls(planned, case) as wanted:
        replay(planned, case, sites)
    with leaf_calls(steered, case) as found:
        run(steered, case, sites, Interval(2))
    assert found == wanted


@pytest.mark.slow
@cells(*WHOLE)
def test_exposure_equals_skipping(case, pipe, references, sites):
    found, exposed = run(pipe, case, sites, Interval(2), exposure=True)
    assert torch.equal(found, references.replay(case, sites, every_second))
    assert exposed.summary().reused > 0


@pytest.mark.slow
@cells(*WHOLE)
def test_exposure_of_a_mixed_batch_equals_skipping(case, references, sites):
    skipped, _ = run(references.pipe(case), case, sites, OnlySamples(1))
    exposed, _ = run(references.pipe(case), case, sites, OnlySamples(1), exposure=True)
    assert apart(exposed, skipped) <= case.tolerance


@pytest.mark.slow
@cells(*WHOLE)
def test_summary_counts_gates_that_exist(case, pipe, sites):
    _, steered = run(pipe, case, sites, Interval(2))
    summary = steered.summary()
    assert set(summary.by_site) == set(sites)
    assert all(summary.by_site.values())
    assert sum(summary.by_reason.values()) == summary.gates
    assert summary.reused == sum(summary.by_step) == sum(summary.by_layer)
