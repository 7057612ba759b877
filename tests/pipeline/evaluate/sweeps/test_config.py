"""Settings out of range are refused in one line."""

import pytest

from pipeline.evaluate.sweeps.config import SweepConfig, ThresholdConfig
from pipeline.evaluate.sweeps.grids import AblationGrid, ScheduleGrid


@pytest.mark.parametrize(
    ("build", "fields", "said"),
    [
        (ThresholdConfig, {"thresholds": ()}, "thresholds must be"),
        (ThresholdConfig, {"reuse_limits": (2, 0)}, "reuse_limits must be"),
        (ThresholdConfig, {"runs": 0}, "runs must be at least 1"),
        (ThresholdConfig, {"max_gap": 0}, "max_gap must be at least 1"),
        (ThresholdConfig, {"steps": 1}, "steps must be in"),
        (ScheduleGrid, {"warmups": (1.5,)}, "warmup_fraction must be in"),
        (ScheduleGrid, {"layer_fractions": ()}, "layer_fractions must hold"),
        (AblationGrid, {"ablations": ()}, "ablations must hold"),
        (AblationGrid, {"ablations": ("magic",)}, "ablations must be among"),
        (AblationGrid, {"entropy_quantile": 1.1}, "entropy_quantile must be in"),
        (AblationGrid, {"entropy_threshold": 0.0}, "entropy_threshold must be positive"),
        (SweepConfig, {"kind": "warmup", "grid": ScheduleGrid(), "runs": 0}, "runs must be"),
        (SweepConfig, {"kind": "warmup", "grid": ScheduleGrid(), "steps": 1}, "steps must be"),
    ],
)
def test_configurations_out_of_range_are_refused(build, fields, said):
    with pytest.raises(ValueError, match=said):
        build(**fields)
