"""Predictions of a policy, the decisions that follow, and the configurations that it fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.rules import Learned
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from dqar.records import FEATURES
from tests.dqar.policy.full_policy import FULL, policy_of


def test_default_is_the_seeds_mlp():
    assert sum(weight.numel() for weight in policy_of().parameters()) == 1281


def test_prediction_is_the_mean_of_its_members():
    policy = policy_of(FULL)
    features = torch.randn(4, 2, len(FEATURES), generator=torch.Generator().manual_seed(2))
    by_member = policy.by_member(features)
    assert by_member.shape == (3, 4, 2)
    torch.testing.assert_close(policy(features), by_member.mean(dim=0))
    assert not torch.equal(by_member[0], by_member[1])


def test_features_are_standardised():
    spec = PolicySpec(means=(1.0, 2.0, 3.0, 4.0, 5.0), scales=(2.0,) * 5)
    policy, plain = policy_of(spec), policy_of(PolicySpec())
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))
    scaled = (features - torch.tensor(spec.means)) / 2.0
    torch.testing.assert_close(policy(features), plain(scaled))


def test_score_weighs_damage_by_what_is_saved(make_inputs):
    inputs = make_inputs(num_sites=2)
    dear = policy_of(replace(FULL, savings={"attn": 1.0, "ff": 4.0})).score(inputs)
    flat = policy_of(replace(FULL, savings={"attn": 1.0, "ff": 1.0})).score(inputs)
    difference = (flat - dear).mean(dim=1)
    torch.testing.assert_close(difference, torch.tensor([0.0] * 3 + [4.0] * 3).clamp_min(1).log())


@given(threshold=st.floats(-20, 20))
def test_probability_is_half_where_the_score_meets_the_threshold(make_inputs, threshold):
    policy, inputs = policy_of(FULL), make_inputs(num_sites=2)
    reuse = policy.probability(inputs, threshold) >= 0.5
    assert torch.equal(reuse, policy.score(inputs) <= threshold)


def test_probability_falls_back_to_the_specs_threshold(make_inputs):
    policy, inputs = policy_of(FULL), make_inputs(num_sites=2)
    torch.testing.assert_close(
        policy.probability(inputs), policy.probability(inputs, FULL.log_threshold)
    )


def test_probability_takes_a_threshold_for_each_sample(make_inputs):
    policy, inputs = policy_of(FULL), make_inputs(num_sites=2)
    mixed = policy.probability(inputs, torch.tensor([-5.0, 5.0]))
    torch.testing.assert_close(mixed[:, 0], policy.probability(inputs, -5.0)[:, 0])
    torch.testing.assert_close(mixed[:, 1], policy.probability(inputs, 5.0)[:, 1])


def test_layers_are_decided_together_by_their_mean_damage(make_inputs):
    torch.manual_seed(3)
    spec = PolicySpec(features=FEATURES, sites=("attn", "ff"), savings={"attn": 2.0, "ff": 1.0})
    alone = ReusePolicy(spec)
    together = ReusePolicy(replace(spec, granularity="step"))
    together.load_state_dict(alone.state_dict())
    inputs = make_inputs(num_sites=2, entropy=torch.rand(6, 2))
    damage = alone.score(inputs).exp().unflatten(0, (2, 3))
    scores = together.score(inputs).exp().unflatten(0, (2, 3))
    torch.testing.assert_close(scores, damage.mean(dim=1, keepdim=True).expand(2, 3, 2))


@pytest.mark.parametrize(("cache_mode", "bits"), [("int8", 8), ("fp16", 16), ("fp32", 32)])
def test_a_controller_of_a_policy_is_configured_as_it_was_trained(cache_mode, bits):
    spec = PolicySpec(
        features=FEATURES, sites=("attn", "ff"), forecast_order=1, cache_mode=cache_mode
    )
    controller = DQARController.of_policy(ReusePolicy(spec), num_layers=3)
    assert controller.config == DQARConfig(
        sites=("attn", "ff"), forecast_order=1, quantization_bits=bits
    )
    assert [one.spec for one in controller.gate.policies] == [spec]
    assert controller.num_layers == 3


@pytest.mark.parametrize(("of_policy", "of_config"), [(0, 1), (1, 0), (1, 2)])
def test_policy_must_fit_the_order_of_forecasts(of_policy, of_config):
    policy = ReusePolicy(PolicySpec(forecast_order=of_policy))
    with pytest.raises(ValueError, match=f"trained on {of_policy} for {of_config}"):
        DQARController(DQARConfig(forecast_order=of_config), policy=policy)
    DQARController(DQARConfig(forecast_order=of_policy), policy=policy)


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        (DQARConfig(sites=("ff",)), PolicySpec(features=FEATURES, sites=("attn",))),
        (DQARConfig(cached="kv"), PolicySpec(features=FEATURES)),
        (DQARConfig(branch_mode="independent"), PolicySpec(features=FEATURES)),
    ],
    ids=["sites", "cached", "branches"],
)
def test_policy_must_fit_the_configuration(config, spec):
    policy = ReusePolicy(spec)
    with pytest.raises(ValueError, match="The policy must fit the configuration"):
        DQARController(config, policy=policy)
    with pytest.raises(ValueError, match="The policy must fit the configuration"):
        DQARController(config, gate=Learned(policy))
