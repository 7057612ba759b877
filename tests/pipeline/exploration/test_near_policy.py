"""Plan around a policy: takes the policy's settings, and refuses a policy of other settings."""

from dataclasses import replace

import pytest
import torch

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy, save_policy
from dqar.policy.spec import PolicySpec
from dqar.records import FEATURE_SETS
from pipeline.collect.driver import plan_for
from pipeline.errors import InputError
from pipeline.exploration.near_policy import find_reference_policy
from pipeline.models.model_info import find_model

STEPS = 20
PLANS = ((0, 9), (0, 4, 8, 14), (0, 3, 6, 9, 14), tuple(range(STEPS)))
FIELDS = {"num_trajectories": 6, "batch_size": 6, "dtype": "fp32", "seed": 3}
LEFT_OUT = dict.fromkeys(("guidance_scale", "steps", "sampler", "sites", "forecast_orders"))


@pytest.fixture
def spec():
    return PolicySpec(
        features=FEATURE_SETS["schedule"],
        granularity="step",
        model_hash=find_model("digits").model_hash,
        num_layers=8,
        steps=STEPS,
        sampler="dpm",
        sites=("attn", "ff"),
        guidance=1.5,
        forecast_order=1,
        cache_mode="fp16",
        plans=PLANS,
        plan_errors=(0.4, 0.3, 0.2, 0.1),
        trace_digest="1" * 16,
    )


@pytest.fixture
def reference_policy_of(tmp_path):
    """Return a function that saves a policy with a spec and reads it as a reference policy. The
    weights are the same each time."""

    def build(spec):
        torch.manual_seed(0)
        save_policy(ReusePolicy(spec), tmp_path / "policy")
        return find_reference_policy(str(tmp_path / "policy"), "near-policy")

    return build


def planned(reference_policy, designs="near-policy", **changes):
    return plan_for(
        "digits", designs=designs, reference_policy=reference_policy, **FIELDS | LEFT_OUT | changes
    )


def test_what_was_left_out_follows_the_policy(reference_policy_of, spec):
    reference_policy = reference_policy_of(spec)
    plan = planned(reference_policy)
    assert (plan.steps, plan.sampler, plan.guidance_scale) == (STEPS, "dpm", 1.5)
    assert (plan.sites, plan.forecast_orders, plan.cache_bits) == (("attn", "ff"), (1,), 16)
    assert (plan.seed, plan.num_trajectories, plan.designs) == (3, 6, ("near-policy",))
    assert plan.bases == tuple(one.computed for one in reference_policy.schedules)
    assert plan.policy_digest == reference_policy.digest


def test_without_a_policy_it_follows_the_model():
    plan = planned(None, designs="paced")
    assert (plan.steps, plan.sampler, plan.sites) == (50, "ddim", ("attn",))
    assert plan.guidance_scale == find_model("digits").guidance_scale
    assert plan.forecast_orders == (0, 1, 2)
    assert (plan.bases, plan.policy_digest) == ((), "")


def test_other_designs_and_orders_may_stand_beside(reference_policy_of, spec):
    plan = planned(reference_policy_of(spec), "near-policy:3,regular", forecast_orders=(0, 1, 2))
    assert plan.designs == ("near-policy",) * 3 + ("regular",)
    assert plan.forecast_orders == (0, 1, 2)


def test_plans_that_compute_shares_as_explored_elsewhere_are_taken(reference_policy_of, spec):
    assert tuple(one.computed for one in reference_policy_of(spec).schedules) == PLANS[1:3]


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 30), ("sampler", "ddim"), ("sites", ("attn",)), ("guidance_scale", 2.0)],
)
def test_a_flag_that_is_not_the_policys_is_refused(reference_policy_of, spec, name, value):
    with pytest.raises(
        InputError, match=f"must be trained for what is collected.*{name}"
    ) as refused:
        planned(reference_policy_of(spec), **{name: value})
    assert repr(value) in str(refused.value)


def test_the_order_of_sites_means_nothing(reference_policy_of, spec):
    assert planned(reference_policy_of(spec), sites=("ff", "attn")).sites == ("ff", "attn")


def test_a_policy_of_another_model_is_refused(reference_policy_of, spec):
    with pytest.raises(InputError, match="a model with an identity by another version"):
        planned(reference_policy_of(replace(spec, model_hash="f" * 16)))


@pytest.mark.parametrize("plans", [(), PLANS[:1], PLANS[3:]])
def test_a_policy_without_such_plans_is_refused(reference_policy_of, spec, plans):
    errors = (0.1,) * len(plans)
    with pytest.raises(InputError, match=rf"Got {len(plans)} plans in .*--features schedule"):
        reference_policy_of(replace(spec, plans=plans, plan_errors=errors))


def test_a_policy_that_does_not_read_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"policy\.json must be"):
        find_reference_policy(str(tmp_path), "near-policy")


@pytest.mark.parametrize(
    ("uri", "designs", "said"),
    [
        (None, "paced,near-policy", "must come with --explore-around"),
        ("runs/policy", "paced", "must come with near-policy among the designs"),
        ("runs/policy", "near-policy:x", "Choose from paced"),
    ],
)
def test_one_without_the_other_is_refused(uri, designs, said):
    with pytest.raises(InputError, match=said):
        find_reference_policy(uri, designs)


def test_a_training_that_is_repeated_gives_the_same_round(reference_policy_of, spec):
    first = reference_policy_of(spec)
    assert reference_policy_of(replace(spec, lineage={"train": "another"})).digest == first.digest
    assert len(first.digest) == 24


@pytest.mark.parametrize(
    "changes",
    [{"plans": PLANS[1:], "plan_errors": (0.3, 0.2, 0.1)}, {"trace_digest": "2" * 16}],
    ids=["plans", "traces"],
)
def test_another_policy_gives_another_round(reference_policy_of, spec, changes):
    first, other = reference_policy_of(spec), reference_policy_of(replace(spec, **changes))
    assert other.digest != first.digest
    assert planned(other).noise_seed != planned(first).noise_seed


def test_other_weights_give_another_round(reference_policy_of, spec, tmp_path):
    first = reference_policy_of(spec)
    policy = load_policy(tmp_path / "policy")
    next(policy.parameters()).data.add_(1e-3)
    save_policy(policy, tmp_path / "policy")
    other = find_reference_policy(str(tmp_path / "policy"), "near-policy")
    assert other is not None
    assert other.digest != first.digest


def test_a_policy_of_other_layers_is_refused(reference_policy_of, spec):
    policy = reference_policy_of(replace(spec, num_layers=9))
    fields = policy.fields | {"model_hash": spec.model_hash}
    with pytest.raises(InputError, match=r"--explore-around must know .* 8 layers\. Got 9"):
        policy.refuse_misfit(fields, 8)
