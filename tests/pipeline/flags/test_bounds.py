"""Ranges of flags: each refusal is one line that names the flag and a value that it may have."""

import math

import pytest

from pipeline.cluster.config import ClusterFlags
from pipeline.collect.flags import CollectFlags
from pipeline.demo.run import DemoConfig
from pipeline.doctor.config import DoctorConfig
from pipeline.evaluate.flags import EvaluateFlags
from pipeline.evaluate.sweeps.flags import AblationGrid, DummySweep, ModelSweep
from pipeline.flags.bounds import Range, flag_of, require_distinct, require_some
from pipeline.models.pretrain_config import PretrainConfig
from pipeline.sample.flags import SampleFlags
from pipeline.train.flags import TrainFlags

PLACES = {"model": "m", "out": "o"}


@pytest.mark.parametrize(
    ("kind", "given", "name", "value"),
    [
        (ClusterFlags, {}, "workers", 10**20),
        (ClusterFlags, {}, "unit_timeout_minutes", math.nan),
        (DoctorConfig, {}, "timeout_s", math.inf),
        (CollectFlags, PLACES, "num_trajectories", 10**12),
        (CollectFlags, PLACES, "seed", 2**63),
        (CollectFlags, PLACES, "unit_size", 2**63),
        (CollectFlags, PLACES, "guidance_scale", 1e308),
        (EvaluateFlags, PLACES, "batch_size", 10**20),
        (EvaluateFlags, PLACES, "samples_per_task", 2**63),
        (SampleFlags, PLACES, "num_samples", 2**63),
        (SampleFlags, PLACES, "class_labels", (1, -1)),
        (TrainFlags, {"traces": [], "out": "o"}, "forecast_orders", (3,)),
        (DummySweep, {}, "reuse_limits", (2, 2**63)),
        (DummySweep, {}, "max_gap", 2**63),
        (DummySweep, {}, "seed", 2**63),
        (ModelSweep, {}, "runs", 10**20),
        (AblationGrid, {}, "entropy_threshold", math.inf),
        (PretrainConfig, {}, "num_layers", 10**20),
        (DemoConfig, {}, "port", 65536),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_flag(kind, given, name, value):
    with pytest.raises(ValueError, match=rf"^{flag_of(name)} must be .*\. Got .*\. Pass --\S+ \S+"):
        kind(**given, **{name: value})


def test_a_model_too_large_to_train_is_refused():
    with pytest.raises(ValueError, match=r"at most 1e\+09 parameters.*Pass --num-layers 8\."):
        PretrainConfig(num_layers=1000, num_heads=100, head_dim=100)


def test_a_range_includes_its_ends_unless_it_is_open():
    assert 0 in Range(least=0, most=1, usual=1)
    assert 0 not in Range(least=0, most=1, usual=1, is_open=True)
    assert math.nan not in Range(least=0, most=math.inf, usual=1)


def test_values_given_twice_and_none_are_refused():
    with pytest.raises(ValueError, match=r"--warmups must name each value once\. Got 0\.1 2 times"):
        require_distinct(WithWarmups((0.1, 0.1)), "warmups")
    with pytest.raises(ValueError, match=r"--warmups must hold at least one value"):
        require_some(WithWarmups(()), "warmups")


class WithWarmups:
    """An object with one list."""

    def __init__(self, warmups):
        self.warmups = warmups


@pytest.mark.parametrize("other", [{"policy": "p"}, {"plan": "p"}, {"no_reference": True}])
def test_flags_without_effect_beside_no_reuse_are_refused(other):
    with pytest.raises(ValueError, match=r"^--no-reuse must come without .*Leave out the one"):
        SampleFlags(**PLACES, no_reuse=True, **other)


def test_an_entropy_quantile_beside_a_threshold_is_refused():
    with pytest.raises(ValueError, match="--entropy-threshold must come without"):
        AblationGrid(entropy_quantile=0.3, entropy_threshold=2.0)
    assert AblationGrid().decided().entropy_quantile == 0.5
    assert AblationGrid(entropy_threshold=2.0).decided().entropy_quantile is None
