"""Settings of sweeps: refusals out of range, and their order in sweep.json."""

import pytest

from pipeline.evaluate.sweeps.config import SweepConfig, ThresholdConfig, settings_of
from pipeline.evaluate.sweeps.flags import AblationGrid, ModelSweep, Warmup
from pipeline.evaluate.sweeps.grids import schedule_grid


def build_grid(**fields):
    return schedule_grid(Warmup(out="out", sweep=ModelSweep(), **fields))


def build_sweep(**fields):
    return SweepConfig(kind="warmup", grid=build_grid(), guidance_scale=2.0, **fields)


@pytest.mark.parametrize(
    ("build", "fields", "said"),
    [
        (ThresholdConfig, {"thresholds": ()}, "--thresholds must hold"),
        (ThresholdConfig, {"reuse_limits": (2, 0)}, "--reuse-limits must be"),
        (ThresholdConfig, {"runs": 0}, "runs must be from 1 to 1000"),
        (ThresholdConfig, {"max_gap": 0}, "--max-gap must be from 1 to 1000"),
        (ThresholdConfig, {"steps": 1}, "--steps must be from 2"),
        (build_grid, {"warmups": (1.5,)}, "--warmups must be from"),
        (build_grid, {"layer_fractions": ()}, "--layer-fractions must hold"),
        (AblationGrid, {"ablations": ()}, "--ablations must hold"),
        (AblationGrid, {"ablations": ("magic",)}, "ablations must be among"),
        (AblationGrid, {"entropy_quantile": 1.1}, "--entropy-quantile must be from"),
        (AblationGrid, {"entropy_threshold": 0.0}, "--entropy-threshold must be above 0"),
        (build_sweep, {"runs": 0}, "runs must be"),
        (build_sweep, {"steps": 1}, "steps must be"),
    ],
)
def test_configurations_out_of_range_are_refused(build, fields, said):
    with pytest.raises(ValueError, match=said):
        build(**fields)


def test_settings_keep_the_order_of_earlier_files():
    model = ["kind", "grid", "model", "steps", "guidance_scale", "sampler", "dtype", "runs"]
    assert [*settings_of(build_sweep())] == [*model, "num_samples", "batch_size", "seed"]
    dummy = ["thresholds", "reuse_limits", "max_gap", "runs", "steps", "seed", "device"]
    assert [*settings_of(ThresholdConfig())] == dummy
