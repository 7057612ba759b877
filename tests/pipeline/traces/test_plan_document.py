"""plan.json: plans of this release and of earlier ones are read, any other document is refused."""

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.exploration.collect_plan import BOUNDS, digest_of_fields
from pipeline.storage.json_schema import Malformed, parse
from pipeline.storage.object_store import open_storage
from pipeline.traces.commit import claim_output
from pipeline.traces.document_schemas import check_plan
from pipeline.traces.manifest import read_document
from tests.pipeline.exploration.test_collect_plan import BASE, NEAR
from tests.pipeline.traces.test_hostile_documents import ANYTHING, changed, paths_of

SCHEDULES = st.sets(st.integers(1, 49), max_size=20).map(lambda steps: (0, *sorted(steps)))
FIRST_RELEASE = {"forecast_orders", "feedbacks", "threads"}


def document_of(plan):
    return json.loads(json.dumps(plan.fields | {"plan_hash": plan.plan_hash}))


@pytest.mark.parametrize("plan", [BASE, NEAR], ids=["first", "near"])
def test_a_plan_is_written_and_read_again(tmp_path, plan):
    claim_output(tmp_path, plan)
    claim_output(tmp_path, plan)
    found = read_document(open_storage(tmp_path), "plan.json", check_plan)
    assert found == document_of(plan)


@given(st.lists(SCHEDULES, min_size=1, max_size=5), st.integers(0, 16**24 - 1))
def test_any_schedules_are_read_again(bases, number):
    plan = type(NEAR)(
        model="digits",
        model_hash="0",
        designs=("near-policy",),
        bases=tuple(bases),
        policy_digest=f"{number:024x}",
    )
    check_plan(parse(json.dumps(document_of(plan)).encode()))


@pytest.mark.parametrize("plan", [BASE, NEAR], ids=["first", "near"])
@given(st.data())
def test_one_field_is_anything(plan, data):
    """A document with one changed field is refused, unless the change leaves the plan equal."""
    path = data.draw(st.sampled_from(list(paths_of(document_of(plan)))))
    document = changed(document_of(plan), path, data.draw(ANYTHING))
    with contextlib.suppress(Malformed):
        check_plan(parse(json.dumps(document).encode()))
        assert document == document_of(plan)


@pytest.mark.parametrize("plan", [BASE, NEAR], ids=["first", "near"])
@given(st.data())
def test_one_field_is_missing(plan, data):
    document = document_of(plan)
    name = data.draw(st.sampled_from(sorted(document)))
    del document[name]
    with contextlib.suppress(Malformed):
        check_plan(document)
        assert name in FIRST_RELEASE


def test_plans_of_the_first_release_are_read():
    old = {name: value for name, value in document_of(BASE).items() if name not in FIRST_RELEASE}
    del old["plan_hash"]
    check_plan(old | {"plan_hash": digest_of_fields(old)})
    with pytest.raises(Malformed, match="must be the plan of hash"):
        check_plan(old | {"plan_hash": BASE.plan_hash})


def test_the_schedules_of_a_plan_are_part_of_its_hash():
    document = document_of(NEAR)
    document["bases"][0][1] += 1
    with pytest.raises(Malformed, match="must be the plan of hash"):
        check_plan(document)


def test_a_folder_of_another_policys_round_is_refused_in_a_short_line(tmp_path):
    claim_output(tmp_path, NEAR)
    other = replace(NEAR, bases=(tuple(range(50)),) * 30, policy_digest="b" * 24)
    with pytest.raises(InputError, match=r"digest 'a+' instead of 'b+'.*Name another") as refused:
        claim_output(tmp_path, other)
    assert len(str(refused.value)) < 600


COUNTS = st.integers(-2, 3) | st.integers() | st.sampled_from([10**6, 10**9, 10**9 + 1, 2**63])
SETTINGS = {
    **dict.fromkeys(BOUNDS, COUNTS),
    "seed": st.integers() | st.sampled_from([-(2**63), -(2**63) + 1, 2**63 - 1, 2**63]),
    "guidance_scale": st.floats(),
    "model": st.text() | st.sampled_from(["\udcff", "x" * 10_000, "\0"]),
    "forecast_orders": st.lists(st.integers(0, 2), max_size=3).map(tuple),
    "feedbacks": st.lists(st.floats(), max_size=3).map(tuple),
}


@given(st.fixed_dictionaries({}, optional=SETTINGS))
@example({"num_trajectories": 10**20})
@example({"num_trajectories": 10**12})
@example({"num_trajectories": 10**9})
@example({"model": "\udcff"})
@example({"guidance_scale": 1e308})
@example({"feedbacks": (0.5,) * 1001})
def test_a_plan_is_read_again_or_refused_before_it_is_written(tmp_path_factory, settings):
    root = tmp_path_factory.mktemp("plan") / "traces"
    plan = None
    with contextlib.suppress(ValueError):
        plan = replace(BASE, **settings)
        claim_output(root, plan)
    if plan is None or not root.exists():
        return
    assert read_document(open_storage(root), "plan.json", check_plan) is not None
    claim_output(root, plan)


@pytest.mark.parametrize(
    ("name", "flag"), [("num_trajectories", "--num-trajectories"), ("batch_size", "--unit-size")]
)
def test_a_count_beyond_its_bound_is_refused_with_its_flag(name, flag):
    most = BOUNDS[name][1]
    assert getattr(replace(BASE, **{name: most}), name) == most
    with pytest.raises(ValueError, match=rf"{name} .* at most {most}\. Got .* Pass another {flag}"):
        replace(BASE, **{name: most + 1})
