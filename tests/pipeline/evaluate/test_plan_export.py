"""Plans of operating points with a schedule: exported, loaded, and listed in the report."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dqar.gates.planned import ScheduleGate
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from dqar.schedules.serialization import load_plan
from dqar.schedules.static_plan import StaticPlan
from dqar.step_schedule import StepSchedule
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.plan_export import plan_of, write_plans
from pipeline.evaluate.report import write_report
from pipeline.evaluate.tasks import PointResult
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.base import OperatingPoint, SweepGrid
from pipeline.methods.interval import interval_points
from pipeline.methods.search.frontier import point_of
from pipeline.report.rows import ReportRow
from pipeline.report.sampling_command import sampling_command

STEPS = 6
PLAN = StepSchedule(computed=(0, 1, 4))


def point(gate=None, schedule: StepSchedule | None = PLAN, forecast_order=0):
    return OperatingPoint(
        method="learned",
        operating_point="policy,computed=3,order=1",
        steps=STEPS,
        gate=gate,
        schedule=schedule,
        schedule_source=None if schedule is None else "policy",
        forecast_order=forecast_order,
    )


def measured(operating_point, schedule, order=1, method="learned", source="policy"):
    row = {
        "method": method,
        "operating_point": operating_point,
        "schedule_source": schedule and source,
        "forecast_order": order,
        "feedback": 0.5 * order,
        "reuse_ratio": 0.5,
        "flops_ratio": 1.5,
        "speedup": 1.0,
        "latent_rel_l2": 0.01,
    }
    images = np.zeros((2, 8, 8, 1), dtype=np.float32)
    plan = None
    if schedule is not None:
        mask = schedule.mask(STEPS)[:, None].expand(STEPS, 4)
        plan = StaticPlan.of_mask(mask, sites=("attn",))
    return PointResult(row=row, images=images, reference_images=images, plan=plan)


@pytest.mark.parametrize("sites", [("attn",), ("attn", "ff")])
def test_a_plan_is_of_every_gate_and_of_the_sampler(ddim, sites):
    ddim.set_timesteps(STEPS)
    plan = plan_of(point(), sites, 3, ddim)
    assert plan is not None
    assert plan.mask.shape == (STEPS, 3 * len(sites))
    assert (plan.mask == PLAN.mask(STEPS)[:, None]).all()
    assert plan.sampler == "DDIMScheduler"
    assert plan.timesteps == tuple(ddim.timesteps.tolist())


def test_other_points_have_none(ddim):
    ddim.set_timesteps(STEPS)
    assert plan_of(point(schedule=None), ("attn",), 3, ddim) is None


def test_plans_are_written_and_read_back(tmp_path):
    even = StepSchedule(computed=(0, 3))
    points = [
        measured("policy,computed=3,order=1", PLAN),
        measured("budget=0.01", even, order=0, source="uniform"),
        measured("period=2", None, method="interval"),
    ]
    text = write_plans(points, tmp_path)
    names = [
        "learned-budget-0.01-order-0-feedback-0.json",
        "learned-policy-3-order-1-feedback-0.5.json",
    ]
    assert sorted(path.name for path in (tmp_path / "plans").iterdir()) == names
    assert load_plan(tmp_path / "plans" / names[1]) == points[0].plan
    assert load_plan(tmp_path / "plans" / names[0]) == points[1].plan
    assert f"- learned budget=0.01: from `uniform`, in plans/{names[0]}" in text
    assert "interval" not in text


def test_a_plan_that_no_policy_made_can_be_shipped(tmp_path):
    one = point_of("spaced", PLAN, STEPS, "spaced")
    result = measured(one.operating_point, PLAN, 0, one.method, "spaced")
    (line,) = [line for line in write_plans([result], tmp_path).splitlines() if line[:1] == "-"]
    assert "from `spaced`, in plans/spaced-computed-3-order-0-feedback-0.json" in line
    row = ReportRow.of(result.row | {"model": "digits"})
    assert "--plan F/plans/spaced-computed-3" in str(sampling_command(row, "F"))


def test_plans_of_an_earlier_evaluation_go(tmp_path):
    write_plans([measured("policy,computed=3,order=1", PLAN)], tmp_path)
    assert write_plans([measured("period=2", None)], tmp_path) == ""
    assert list((tmp_path / "plans").iterdir()) == []


def test_the_report_says_which_schedule_was_taken(tmp_path):
    write_report([measured("policy,computed=3,order=1", PLAN)], tmp_path, "title")
    text = (tmp_path / "report.md").read_text()
    assert "learned policy,computed=3,order=1: from `policy`, in plans/" in text
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert row["schedule_source"] == "policy"


def test_an_evaluation_gives_the_plan_that_it_measured():
    evaluator = EvaluationWorker(
        EvaluateConfig(model="digits", steps=STEPS, guidance_scale=2.0, num_samples=2, batch_size=2)
    )
    spec = PolicySpec(steps=STEPS, plans=(PLAN.computed,), plan_errors=(0.1,), forecast_order=1)
    planned = evaluator.measure(point(gate=ScheduleGate(ReusePolicy(spec)), forecast_order=1))
    assert planned.row["schedule_source"] == "policy"
    assert planned.plan is not None
    assert planned.plan.reuse_ratio == planned.row["reuse_ratio"] == 0.5
    assert len(planned.plan.timesteps) == STEPS
    (other,) = interval_points(SweepGrid(periods=(2,)), STEPS)
    result = evaluator.measure(other)
    assert (result.plan, result.row["schedule_source"]) == (None, None)
    assert torch.isfinite(torch.tensor(result.row["latent_rel_l2"]))
