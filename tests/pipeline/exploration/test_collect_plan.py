"""A plan is a partition of its trajectories, and its hash is its identity."""

import copy
import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.exploration.collect_plan import CollectPlan, canonical_json
from pipeline.exploration.designs import DESIGNS

BASE = CollectPlan(model="digits", model_hash="0" * 16)
NEAR = CollectPlan(
    model="digits",
    model_hash="0" * 16,
    designs=("near-policy", "paced"),
    bases=((0, 3, 7), (0, 2, 4, 9)),
    policy_digest="a" * 24,
)
CHANGED = {
    "model": "other",
    "model_hash": "1" * 16,
    "num_trajectories": 513,
    "masks_per_noise": 4,
    "batch_size": 24,
    "steps": 49,
    "guidance_scale": 4.5,
    "sampler": "dpm",
    "sites": ("attn", "ff"),
    "designs": ("independent",),
    "forecast_orders": (0, 1),
    "feedbacks": (0.0, 0.5),
    "branch_mode": "independent",
    "cache_bits": 16,
    "dtype": "fp16",
    "threads": 2,
    "seed": 1,
    "bases": ((0, 3),),
    "policy_digest": "b" * 24,
    "schema_version": 4,
}


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 8))
def test_units_partition_the_trajectories(num_trajectories, batch_size, masks):
    plan = CollectPlan(
        model="digits",
        model_hash="0",
        num_trajectories=num_trajectories,
        batch_size=batch_size,
        masks_per_noise=masks,
    )
    units = list(plan.units())
    seen = [index for unit in units for index in range(unit.start, unit.stop)]
    assert seen == list(range(num_trajectories))
    assert [unit.index for unit in units] == list(range(len(units)))
    assert len({unit.unit_id for unit in units}) == len(units)
    assert all(0 < len(unit) <= max(batch_size, masks) for unit in units)
    assert len({plan.trajectory_id(index) for index in seen}) == num_trajectories


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 8))
def test_a_noise_lies_within_one_unit(num_trajectories, batch_size, masks):
    plan = CollectPlan(
        model="digits",
        model_hash="0",
        num_trajectories=num_trajectories,
        batch_size=batch_size,
        masks_per_noise=masks,
    )
    noises = [{plan.noise_id(i) for i in range(unit.start, unit.stop)} for unit in plan.units()]
    assert sum(map(len, noises)) == len(set().union(*noises))


def test_the_table_of_changes_holds_every_field():
    assert set(CHANGED) == set(BASE.__dataclass_fields__)


@pytest.mark.parametrize("name", CHANGED)
def test_plan_hash_changes_with_every_field(name):
    other = copy.copy(BASE)
    object.__setattr__(other, name, CHANGED[name])
    assert other.plan_hash != BASE.plan_hash
    assert next(other.units()).unit_id != next(BASE.units()).unit_id


@pytest.mark.parametrize("name", ["bases", "policy_digest"])
def test_rounds_around_another_policy_are_other_plans(name):
    other = replace(NEAR, **{name: CHANGED[name]})
    assert other.plan_hash != NEAR.plan_hash


def test_a_plan_around_no_policy_has_the_hash_that_it_always_had():
    """Hashes of earlier releases stay, so that their collections can be resumed."""
    assert BASE.plan_hash == "970c33c05b88b666"
    assert next(BASE.units()).unit_id == "cd208c36273171a1"
    assert not {"bases", "policy_digest"} & BASE.fields.keys()


def test_no_round_repeats_noise_or_draws_of_one_before_it():
    second = replace(NEAR, policy_digest="b" * 24)
    seeds = {plan.noise_seed for plan in (BASE, NEAR, second, replace(NEAR, seed=1))}
    assert len(seeds) == 4
    assert BASE.noise_seed == BASE.seed
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("designs", ("paced",), "must come with the design near-policy"),
        ("bases", (), "must come with the design near-policy"),
        ("policy_digest", "", "must come with the design near-policy"),
        ("bases", ((1, 2),), "growing steps from 0"),
        ("steps", 9, "below 9"),
    ],
)
def test_half_a_round_is_refused(name, value, said):
    with pytest.raises(ValueError, match=said):
        replace(NEAR, **{name: value})


@pytest.mark.parametrize("guidance", [float("nan"), float("inf")])
def test_guidance_that_is_no_number_is_refused(guidance):
    with pytest.raises(ValueError, match="guidance_scale must be finite"):
        CollectPlan(model="digits", model_hash="0", guidance_scale=guidance)


def test_equal_plans_have_equal_hashes_and_units():
    again = CollectPlan(model="digits", model_hash="0" * 16)
    assert again.plan_hash == BASE.plan_hash
    assert list(again.units()) == list(BASE.units())


def test_canonical_json_ignores_the_order_of_keys():
    assert canonical_json({"b": 1, "a": 2}) == canonical_json({"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_trajectories", 0),
        ("masks_per_noise", 0),
        ("batch_size", -1),
        ("steps", 1),
        ("designs", ()),
        ("forecast_orders", ()),
        ("forecast_orders", (0, 3)),
        ("feedbacks", ()),
        ("feedbacks", (0.0, 1.5)),
        ("feedbacks", (float("nan"),)),
    ],
)
def test_fields_out_of_range_are_refused_by_name(name, value):
    fields = {"model": "digits", "model_hash": "0", name: value}
    with pytest.raises(ValueError, match=name):
        CollectPlan(**fields)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.sampled_from([(0,), (1,), (0, 1), (0, 1, 2), (2, 1, 1, 0)]))
def test_every_design_meets_every_order_equally_often(num_designs, orders):
    designs = (DESIGNS[0],) * num_designs
    plan = CollectPlan(model="digits", model_hash="0", designs=designs, forecast_orders=orders)
    rounds = range(num_designs * len(orders))
    for design in range(num_designs):
        met = [plan.forecast_order(index) for index in rounds if index % num_designs == design]
        assert sorted(met) == sorted(orders)


def test_trajectories_of_a_noise_differ_in_their_order():
    plan = CollectPlan(model="digits", model_hash="0", forecast_orders=(0, 1, 2))
    for noise in range(0, 6, 2):
        mates = [index for index in range(18) if plan.noise_id(index) == noise]
        assert {plan.forecast_order(index) for index in mates} == {0, 1, 2}


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6))
def test_every_order_meets_every_gain_in_every_design(num_designs, num_orders, num_gains):
    orders, gains = tuple(range(num_orders)), tuple(index / 10 for index in range(num_gains))
    plan = CollectPlan(
        model="digits",
        model_hash="0",
        designs=(DESIGNS[0],) * num_designs,
        forecast_orders=orders,
        feedbacks=gains,
    )
    rounds = range(num_designs * num_orders * num_gains)
    met = [
        (index % num_designs, plan.forecast_order(index), plan.feedback(index)) for index in rounds
    ]
    assert sorted(met) == sorted(itertools.product(range(num_designs), orders, gains))


def test_the_model_keeps_what_the_highest_order_needs():
    plan = CollectPlan(model="digits", model_hash="0", forecast_orders=(0, 2, 1))
    assert plan.dqar_config().forecast_order == 2
