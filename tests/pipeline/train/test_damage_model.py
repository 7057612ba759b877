"""Merging gates with equal features into one row does not change predictions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from pipeline.train.damage_model import DamageModel, fit_damage
from pipeline.train.early_stopping import FitConfig
from pipeline.train.gate_table import ReusedGates
from tests.pipeline.gate_readers import load_reused_gates

FEATURES = ("log_gap", "progress")


@st.composite
def reused_gates(draw):
    """Draw tables of gates with few distinct features, and possibly trajectories without gates."""
    trajectories = draw(st.integers(1, 5))
    gate = st.tuples(
        st.integers(0, trajectories - 1), st.sampled_from([0.0, 0.1, 1.5]), st.integers(0, 2)
    )
    gates = draw(st.lists(gate, min_size=1, max_size=40))
    owner, gap, progress = (torch.tensor(column) for column in zip(*gates, strict=True))
    return ReusedGates(
        features=torch.stack([gap.float(), progress / 10.0], dim=1),
        trajectory=owner,
        squared_error=torch.rand(trajectories, generator=torch.Generator().manual_seed(0)),
        noise=torch.arange(trajectories),
        weight=torch.tensor(draw(lists_of(st.sampled_from([1.0, 2.0, 0.5]), len(gates)))),
    )


def lists_of(elements, count):
    return st.lists(elements, min_size=count, max_size=count)


def damage_model():
    torch.manual_seed(0)
    return DamageModel(policy=ReusePolicy(PolicySpec(features=FEATURES, members=2)), log_floor=-9.0)


@given(reused_gates())
def test_predictions_are_the_same_collapsed_or_not(gates):
    model, collapsed = damage_model(), gates.collapsed()
    torch.testing.assert_close(model.predict(collapsed), model.predict(gates))


@given(reused_gates())
def test_a_collapsed_row_stands_for_all_that_look_like_it(gates):
    collapsed = gates.collapsed()
    rows = torch.cat([collapsed.trajectory[:, None].float(), collapsed.features], dim=1)
    assert len(rows.unique(dim=0)) == len(rows)
    for name in ("squared_error", "noise", "log_error"):
        assert torch.equal(getattr(collapsed, name), getattr(gates, name))
    count = len(gates.squared_error)
    for one, other in ((collapsed, gates), (collapsed.collapsed(), gates)):
        weights = [torch.bincount(each.trajectory, each.weight, count) for each in (one, other)]
        torch.testing.assert_close(*weights)


@given(reused_gates(), st.data())
def test_collapsing_and_choosing_trajectories_commute(gates, data):
    chosen = torch.tensor(data.draw(lists_of(st.booleans(), len(gates.squared_error))))
    one, other = gates.collapsed().subset(chosen), gates.subset(chosen).collapsed()
    for name in ("features", "trajectory", "weight", "squared_error"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_a_fit_of_collapsed_gates_is_that_of_all():
    generator = torch.Generator().manual_seed(0)
    features = (torch.rand(600, 2, generator=generator) < 0.5).float()
    trajectory = torch.randint(30, (600,), generator=generator)
    damage = torch.exp(2.0 * features[:, 0] - 6.0)
    gates = ReusedGates(
        features=features,
        trajectory=trajectory,
        squared_error=torch.zeros(30).index_add(0, trajectory, damage),
        noise=torch.arange(30) // 2,
        weight=torch.ones(600),
    )
    assert len(gates.collapsed().trajectory) <= 30 * 4
    spec, config = PolicySpec(features=FEATURES), FitConfig(steps=60)
    fits = [
        fit_damage(spec, one, config).model.predict(gates) for one in (gates, gates.collapsed())
    ]
    torch.testing.assert_close(*fits, atol=1e-2, rtol=0)


@pytest.mark.parametrize("names", [("log_gap", "progress"), ("depth", "log_gap", "progress")])
def test_only_gates_that_nothing_tells_apart_are_collapsed(traces, traces_plan, names):
    gates = load_reused_gates(str(traces), names, ("attn",))
    layers = 8
    assert set(gates.weight.tolist()) == ({1.0} if "depth" in names else {float(layers)})
    per_trajectory = torch.bincount(gates.trajectory, gates.weight, traces_plan.num_trajectories)
    assert (per_trajectory % layers == 0).all()
    assert per_trajectory.max() <= layers * (traces_plan.steps - 1)
