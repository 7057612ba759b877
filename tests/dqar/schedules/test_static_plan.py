"""Static plans: their properties, the plans that are refused, and their files."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.gates.rules import MaskGate
from dqar.records import ACTIONS, MAX_ORDER
from dqar.schedules.serialization import PlanDocument, load_plan, save_plan
from dqar.schedules.static_plan import Action, StaticPlan, majority

SITES = [("attn",), ("ff",), ("attn", "ff"), ("ff", "attn"), ("block",)]


def possible(table: list[list[Action]]) -> tuple[tuple[Action, ...], ...]:
    """Reduce the forecasts of a table to the orders that their histories allow."""
    computed, rows = [0] * len(table[0]), []
    for row in table:
        rows.append(tuple(Action(min(a, max(1, n))) for a, n in zip(row, computed, strict=True)))
        computed = [n + (a is Action.COMPUTE) for a, n in zip(row, computed, strict=True)]
    return tuple(rows)


@st.composite
def fields(draw) -> dict[str, Any]:
    sites, num_layers = draw(st.sampled_from(SITES)), draw(st.integers(1, 4))
    gates = len(sites) * num_layers
    rows = st.lists(st.sampled_from(Action), min_size=gates, max_size=gates)
    table = possible([[Action.COMPUTE] * gates, *draw(st.lists(rows, max_size=6))])
    finite = st.floats(allow_nan=False, allow_infinity=False)
    timesteps = draw(st.lists(finite, min_size=len(table), max_size=len(table)) | st.just([]))
    return {
        "sites": sites,
        "num_layers": num_layers,
        "table": table,
        "sampler": draw(st.text()),
        "timesteps": tuple(timesteps),
    }


def small(**changes: Any) -> StaticPlan:
    values: dict[str, Any] = {
        "sites": ("attn",),
        "num_layers": 2,
        "table": ((Action.COMPUTE, Action.COMPUTE), (Action.REUSE, Action.COMPUTE)),
    }
    return StaticPlan(**(values | changes))


# The class.


@given(fields())
def test_counts_are_those_of_the_table(values):
    plan = StaticPlan(**values)
    flat = [action for row in plan.table for action in row]
    assert plan.steps == len(plan.table)
    assert plan.reuse_ratio == pytest.approx(1 - flat.count(Action.COMPUTE) / len(flat))
    assert plan.forecast_order == max(action.order for action in flat)
    assert 1 <= plan.num_distinct_steps <= len(set(plan.table))
    assert not plan.mask[0].any()


@given(fields(), st.integers(0, 2))
def test_mask_makes_a_plan_of_the_highest_orders_there_can_be(values, order):
    plan = StaticPlan(**values)
    again = StaticPlan.of_mask(
        plan.mask,
        sites=plan.sites,
        forecast_order=order,
        sampler=plan.sampler,
        timesteps=plan.timesteps,
    )
    highest = [[Action(order + 1) if a else a for a in row] for row in plan.table]
    assert again.table == possible(highest)


def test_actions_are_those_of_traces():
    assert [action.name.lower() for action in Action] == ["compute", *ACTIONS]
    assert [action.order for action in Action if action] == list(range(MAX_ORDER + 1))


def test_gate_reuses_what_the_plan_reuses(make_inputs):
    gate = small().gate()
    assert isinstance(gate, MaskGate)
    assert torch.equal(gate.reuse, torch.tensor([[[0], [0]], [[1], [0]]], dtype=torch.bool))


@pytest.mark.parametrize("order", [-1, 3])
def test_orders_that_are_none_are_refused(order):
    with pytest.raises(ValueError, match=rf"forecast_order must be 0 to 2\. Got {order}\. Pass"):
        StaticPlan.of_mask(small().mask, sites=("attn",), forecast_order=order)


def test_majority_is_more_than_half():
    share = torch.tensor([[0.0, 0.5, 0.51, 1.0]])
    assert majority(share).tolist() == [[False, False, True, True]]


BAD = {
    "unknown site": ({"sites": ("attn1",)}, "sites must be one of"),
    "no site": ({"sites": ()}, "sites must name at least one"),
    "block and attn": ({"sites": ("block", "attn")}, "block must be the only site"),
    "no layers": ({"num_layers": 0}, "num_layers must be at least 1"),
    "no steps": ({"table": ()}, "table must have 2 gates"),
    "another depth": ({"num_layers": 3}, "table must have 3 gates"),
    "reuse at once": ({"table": ((Action.REUSE, Action.COMPUTE),)}, "Step 0 must compute"),
    "forecast of one value": (
        {"table": ((Action.COMPUTE,) * 2, (Action.FORECAST1, Action.REUSE))},
        "A forecast must come after one computation more than its order",
    ),
    "forecast of two values": (
        {"table": ((Action.COMPUTE,) * 2,) * 2 + ((Action.FORECAST1, Action.FORECAST2),)},
        "A forecast must come after one computation more than its order",
    ),
    "too few timesteps": ({"timesteps": (1.0,)}, "timesteps must be one a step"),
    "no number": ({"timesteps": (1.0, float("nan"))}, "timesteps must be finite"),
}


@pytest.mark.parametrize(("changes", "said"), BAD.values(), ids=BAD)
def test_what_no_plan_can_be_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        small(**changes)


@pytest.mark.parametrize(
    ("num_layers", "timesteps", "said"),
    [(3, [9.0, 1.0], "of 2 layers"), (2, [9.0], "2 steps"), (2, [8.0, 1.0], "exported for the")],
)
def test_misfits_are_refused(num_layers, timesteps, said):
    plan = small(timesteps=(9.0, 1.0))
    plan.refuse_misfit(2, [9.0, 1.0])
    with pytest.raises(ValueError, match=said):
        plan.refuse_misfit(num_layers, timesteps)


# The file.


@given(fields())
def test_file_is_the_plan(tmp_path_factory, values):
    plan = StaticPlan(**values)
    path = tmp_path_factory.mktemp("plans") / "deep" / "plan.json"
    save_plan(plan, path)
    assert load_plan(path) == plan
    named = [action.name.lower() for action in Action]
    assert json.loads(path.read_text())["actions"] == named[: 2 + plan.forecast_order]


def test_file_of_a_release_without_forecasts(path):
    stored = {"schema_version": 1, "sites": ["attn"], "num_layers": 2}
    stored |= {"actions": ["compute", "reuse"], "table": ["00", "10"]}
    path.write_text(json.dumps(stored | {"sampler": "", "timesteps": []}))
    assert load_plan(path) == small()


def test_a_file_with_an_impossible_forecast_is_refused(path):
    save_plan(small(), path)
    names = [action.name.lower() for action in Action]
    stored = json.loads(path.read_text()) | {"actions": names, "table": ["00", "12"]}
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"plan\.json does not describe a plan: A forecast must"):
        load_plan(path)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("plan") / "plan.json"


FIELDS = tuple(PlanDocument.__dataclass_fields__)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(name=st.sampled_from(FIELDS), value=JSON)
def test_a_strange_field_is_one_clear_line_or_a_plan(path, name, value):
    save_plan(small(), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    refused = pytest.raises(ValueError, match=rf"\A{path} [^\n]+\Z")
    with suppress(pytest.fail.Exception), refused:
        assert load_plan(path).table == small().table


@given(
    st.binary(max_size=40) | st.just(b"[" * 100_000) | JSON.map(lambda v: json.dumps(v).encode())
)
def test_any_other_bytes_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"plan\.json (must|does)"):
        load_plan(path)


@given(st.data())
def test_a_file_that_is_cut_short_is_refused(path, data):
    save_plan(small(), path)
    text = path.read_bytes()
    path.write_bytes(text[: data.draw(st.integers(0, len(text) - 3))])
    with pytest.raises(ValueError, match=r"plan\.json must be a plan's JSON"):
        load_plan(path)


@given(st.permutations(FIELDS))
def test_keys_may_come_in_any_order(path, order):
    save_plan(small(feedback=0.5), path)
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({name: stored[name] for name in order if name in stored}))
    assert load_plan(path) == small(feedback=0.5)


HUGE = st.sampled_from([10**400, 2**63, -1, True, 1e308, float("nan"), float("inf")])
HOSTILE = st.sampled_from(["../../x", "/etc/passwd", "\x00", "\u0661", "9" * 5000, "é\u202e"])


@given(st.data())
def test_a_strange_item_is_one_clear_line_or_a_plan(path, data):
    save_plan(small(timesteps=(9.0, 1.0)), path)
    stored = json.loads(path.read_text())
    name = data.draw(st.sampled_from(["sites", "actions", "table", "timesteps", "num_layers"]))
    value = data.draw(HUGE | HOSTILE | JSON)
    if isinstance(stored[name], list):
        stored[name][data.draw(st.integers(0, len(stored[name]) - 1))] = value
    else:
        stored[name] = value
    path.write_text(json.dumps(stored))
    before = sorted(path.parent.iterdir())
    with suppress(pytest.fail.Exception), pytest.raises(ValueError, match=rf"\A{path} [^\n]+\Z"):
        assert load_plan(path).num_layers == 2
    assert sorted(path.parent.iterdir()) == before


def test_missing_folders_and_endless_files_are_refused(path, monkeypatch):
    with pytest.raises(ValueError, match=r"policy\.json must be a policy's JSON"):
        load_plan(path.parent)
    with pytest.raises(ValueError, match="must be a plan's JSON"):
        load_plan(path.parent / "none.json")
    save_plan(small(), path)
    monkeypatch.setattr("dqar.schedules.serialization.MAX_BYTES", 10)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        load_plan(path)


def test_an_action_of_another_release_is_named(path):
    save_plan(small(), path)
    stored = json.loads(path.read_text()) | {"actions": ["compute", "forecast9"]}
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"forecast9.*Read the plan with the release"):
        load_plan(path)


def test_actions_may_be_listed_in_another_order(path):
    save_plan(small(), path)
    stored = json.loads(path.read_text())
    stored |= {"actions": ["reuse", "compute"], "table": ["11", "01"]}
    path.write_text(json.dumps(stored))
    assert load_plan(path) == small()


@given(
    reuse=st.lists(st.booleans(), min_size=2, max_size=9),
    order=st.integers(0, MAX_ORDER),
    feedback=st.sampled_from([0.0, 0.25]),
)
def test_a_controllers_configuration_is_the_plans(reuse, order, feedback):
    mask = torch.tensor([False, *reuse])[:, None].expand(-1, 2)
    plan = StaticPlan.of_mask(mask, sites=("ff",), forecast_order=order, feedback=feedback)
    config = plan.config()
    assert (config.sites, config.feedback) == (("ff",), feedback)
    assert config.forecast_order == plan.forecast_order
    remade = StaticPlan.of_mask(
        mask, sites=("ff",), forecast_order=config.forecast_order, feedback=feedback
    )
    assert remade == plan


def test_a_plan_of_mixed_orders_is_no_controllers():
    compute, reuse, forecast = Action.COMPUTE, Action.REUSE, Action.FORECAST1
    rows = ((compute, compute), (compute, compute), (reuse, forecast))
    plan = StaticPlan(sites=("attn",), num_layers=2, table=rows)
    with pytest.raises(ValueError, match="one order throughout"):
        plan.config()
