"""Metrics of a point under the keys of the tracker."""

from pipeline.evaluate.sweeps.results import Swept
from pipeline.evaluate.sweeps.run import metrics_of


def test_every_point_has_the_same_metric_keys():
    point = Swept(setting={}, runs=({"ms": 1.0}, {"ms": 3.0}), facts={"reuse_ratio_dit_xl": 0.1})
    metrics = metrics_of(point)
    assert set(metrics) == {
        "sweep/reuse_ratio_dit_xl",
        *(f"sweep/ms{part}" for part in ("", "_std", "_low", "_high")),
    }
    assert metrics["sweep/ms"] == 2.0
