"""Plans in the formats of other programs; cache-dit's own reader and pipelines follow them."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dqar.schedules.static_plan import Action, StaticPlan


def plan_of(order=0, *, computed=(0, 1, 4, 7), steps=10, feedback=0.0) -> StaticPlan:
    mask = torch.ones(steps, 6, dtype=torch.bool)
    mask[list(computed)] = False
    sites = ("attn", "ff")
    return StaticPlan.of_mask(mask, sites=sites, forecast_order=order, feedback=feedback)


def mixed_plan() -> StaticPlan:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[2, :3] = mask[3] = True
    return StaticPlan.of_mask(mask, sites=("attn",))


@given(st.sets(st.integers(1, 11)), st.sampled_from([("attn",), ("block",), ("ff", "attn")]))
def test_list_has_a_number_for_each_step(reused, sites):
    mask = torch.zeros(12, len(sites) * 2, dtype=torch.bool)
    mask[list(reused)] = True
    plan = StaticPlan.of_mask(mask, sites=sites)
    assert plan.export("list") == [int(step not in reused) for step in range(12)]
    assert plan.export("gates") == [[one] * len(sites) * 2 for one in plan.export("list")]


def test_gates_are_those_of_the_table():
    plan = mixed_plan()
    assert plan.export("gates") == [[int(a is Action.COMPUTE) for a in row] for row in plan.table]


def test_files_hold_what_is_returned(tmp_path):
    for name, read in {
        "list": json.loads,
        "gates": json.loads,
        "cache-dit": yaml.safe_load,
    }.items():
        path = tmp_path / "made" / name
        assert plan_of(2).export(name, path) == read(path.read_text())


@pytest.mark.parametrize("format", ["list", "cache-dit"])
def test_steps_that_compute_some_gates_are_refused(format, tmp_path):
    with pytest.raises(
        ValueError, match=r"all gates or none\. Got 1 steps .* first of them 2\. "
    ) as e:
        mixed_plan().export(format, tmp_path / "plan")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "plan").exists()


def test_other_formats_are_refused():
    with pytest.raises(
        ValueError, match=r"must be one of \('cache-dit', 'list', 'gates'\)\. Got 'onnx'"
    ):
        plan_of().export("onnx")


def test_several_orders_are_refused():
    rows = [[Action.COMPUTE] * 2] * 3 + [[Action.FORECAST1] * 2, [Action.FORECAST2] * 2]
    plan = StaticPlan(sites=("attn",), num_layers=2, table=tuple(map(tuple, rows)))
    with pytest.raises(ValueError, match=r"one order throughout\. Got several orders"):
        plan.export("cache-dit")
    assert plan.export("list") == [1, 1, 1, 0, 0]


def test_feedback_is_left_out_with_a_warning():
    with pytest.warns(UserWarning, match=r"the plan's gain of 0\.5 is left out"):
        config = plan_of(feedback=0.5).export("cache-dit")
    assert config == plan_of().export("cache-dit")


# The real package.


@pytest.fixture
def cache_dit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "cache_dit",
            reason="needs cache-dit: pip install --no-deps --target FOLDER cache-dit==1.5.3, with "
            "FOLDER on PYTHONPATH",
        )


@pytest.mark.parametrize("order", [0, 1, 2])
def test_cache_dit_reads_the_mask(cache_dit, tmp_path, order):
    returned = plan_of(order).export("cache-dit", tmp_path / "plan.yaml")
    for source in (returned, str(tmp_path / "plan.yaml")):
        loaded = cache_dit.load_configs(source)
        config, calibrator = loaded["cache_config"], loaded["calibrator_config"]
        assert config.steps_computation_mask == plan_of().export("list")
        assert config.num_inference_steps == 10
        assert (config.steps_computation_policy, config.Fn_compute_blocks) == ("static", 1)
        assert (calibrator.taylorseer_order if calibrator else 0) == order


def test_cache_dit_follows_the_mask(cache_dit, pipe, tmp_path, images_of):
    plan_of(1, computed=(0, 1, 4), steps=6).export("cache-dit", tmp_path / "plan.yaml")
    calls: list[list[int]] = [[], [], []]
    step = -1

    def begin(*_):
        nonlocal step
        step += 1

    stock = images_of(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache_dit.enable_cache(pipe, **cache_dit.load_configs(str(tmp_path / "plan.yaml")))
    pipe.transformer.pos_embed.register_forward_pre_hook(begin)
    for called, block in zip(calls, pipe.transformer.transformer_blocks, strict=True):
        block.register_forward_hook(lambda *_, called=called: called.append(step))
    assert not torch.equal(images_of(pipe), stock)
    assert calls == [list(range(6)), [0, 1, 4], [0, 1, 4]]  # its first block computes at each step
