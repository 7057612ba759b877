"""Settings that must be finite are refused at construction, in every dataclass of settings."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from dqar.config import DQARConfig
from dqar.integration import SamplerConfig
from dqar.layer_schedule import LayerSchedule
from dqar.policy.spec import PolicySpec
from dqar.schedules.static_plan import Action, StaticPlan
from dqar.step_schedule import StepSchedule
from pipeline.cluster.config import ClusterConfig
from pipeline.doctor.config import DoctorConfig
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.sweeps.config import SweepConfig, ThresholdConfig
from pipeline.evaluate.sweeps.flags import AblationGrid
from pipeline.evaluate.sweeps.grids import ScheduleGrid
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.methods.base import SweepGrid
from pipeline.models.pretrain_config import PretrainConfig
from pipeline.sample.sample import SampleConfig
from pipeline.traces.lease import LeaseConfig
from pipeline.train.config import TrainConfig
from pipeline.train.early_stopping import FitConfig

PLAN = StaticPlan(sites=("attn",), num_layers=1, table=((Action.COMPUTE,),), timesteps=(0.0,))
SCHEDULE_GRID = ScheduleGrid(
    schedule_types=("linear",), warmups=(0.2,), layer_fractions=(0.5,), cache_bits=8
)
SAMPLES: dict[str, Any] = {
    "model": "digits",
    "steps": 4,
    "guidance_scale": 1.0,
    "sampler": "ddim",
    "dtype": "fp32",
    "seed": 0,
    "num_samples": 1,
}
RECORDS = [
    AblationGrid(),
    ClusterConfig(),
    CollectPlan(model="digits", model_hash="0"),
    DQARConfig(),
    DoctorConfig(),
    EvaluateConfig(model="digits"),
    FitConfig(),
    LayerSchedule(),
    LeaseConfig(),
    PLAN,
    PolicySpec(),
    PretrainConfig(),
    SampleConfig(**SAMPLES, dqar=DQARConfig(), cascade=True, class_labels=(), twin=True),
    SamplerConfig(),
    StepSchedule(computed=(0,)),
    SCHEDULE_GRID,
    SweepConfig(kind="ablations", grid=AblationGrid(), guidance_scale=1.0),
    SweepGrid(),
    ThresholdConfig(device="cpu"),
    TrainConfig(),
]
NEVER_OR_ALWAYS = {
    "cross_branch_threshold",
    "deep_layer_snr_threshold",
    "entropy_threshold",
    "snr_high",
    "thresholds",
    "timeout_s",
    "unit_timeout_minutes",
    "worker_timeout_minutes",
}
"""Limits for which infinity says that there is none."""
CASES = [
    (record, field, value)
    for record in RECORDS
    for field in dataclasses.fields(record)
    if "float" in str(field.type)
    for value in (math.nan, math.inf, -math.inf)
    if not (value == math.inf and field.name in NEVER_OR_ALWAYS)
]


@pytest.mark.parametrize(
    ("record", "field", "value"),
    CASES,
    ids=[f"{type(record).__name__}-{field.name}-{value}" for record, field, value in CASES],
)
def test_a_value_that_is_not_finite_is_refused(record, field, value):
    kind = str(field.type)
    given = (value,) if "tuple" in kind else {"attn": value} if "dict" in kind else value
    with pytest.raises(ValueError, match=r"\. Got "):
        dataclasses.replace(record, **{field.name: given})


def test_every_kind_of_number_is_tried():
    kinds = {str(field.type) for _, field, _ in CASES}
    assert {"float", "float | None", "tuple[float, ...]", "dict[str, float]"} <= kinds
