"""Results of an operating point do not depend on its division into tasks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.gates.rules import Interval
from pipeline.errors import InputError
from pipeline.evaluate.accumulator import MetricAccumulator
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.result_rows import measured_of
from pipeline.evaluate.tasks import EvalTaskResult
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.base import OperatingPoint
from pipeline.models.image_metrics import Deltas, FeatureSums

CONFIG = EvaluateConfig(model="digits", num_samples=12, batch_size=2, steps=6)
POINT = OperatingPoint(method="interval", operating_point="period=2", steps=6, gate=Interval(2))
TIMES = {"speedup", "latency_s", "speedup_bound"}
REFERENCE = FeatureSums.of(torch.randn(40, 3, generator=torch.Generator().manual_seed(9)))


def tallied_of(values, features, start):
    """Return the result of a task with made-up values."""
    metrics = MetricAccumulator(flops=100.0 * len(values), reference_flops=300.0 * len(values))
    column = torch.tensor(values, dtype=torch.float32)
    metrics.judge(
        Deltas(latent_rel_l2=column, psnr=30 + column, ssim=1 - column, feature_distance=None)
    )
    metrics.features = FeatureSums.of(features)
    metrics.matches = int((column > 0.1).sum())
    metrics.gates, metrics.reused = 16 * len(values), int(column.sum() * 40)
    metrics.reused_by_site.update(attn=metrics.reused)
    metrics.actions_by_site["attn"].update(reuse=metrics.reused)
    metrics.cache_bytes = int(column.max() * 2**20)
    metrics.peak_memory_mb = float(column.max())
    metrics.images = list(torch.full((len(values), 2, 2, 1), 0.5).numpy())[: max(0, 8 - start)]
    metrics.references = metrics.images
    if start == 0:
        metrics.timed, metrics.seconds, metrics.reference_seconds = len(values), 2.0, 5.0
    share = {"attn": 0.25} if start == 0 else {}
    return EvalTaskResult(metrics=metrics, device="cpu", site_share=share, real_features=REFERENCE)


@given(
    values=st.lists(st.floats(0.0, 0.5, width=32), min_size=12, max_size=12),
    cuts=st.sets(st.sampled_from([2, 4, 6, 8, 10])),
    seed=st.integers(0, 99),
)
def test_parts_add_up_to_the_row_of_the_whole(values, cuts, seed):
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed))
    ends = [0, *sorted(cuts), 12]
    parts = []
    for start, stop in pairwise(ends):
        parts.append(tallied_of(values[start:stop], features[start:stop], start))
    whole = tallied_of(values, features, 0)
    # tallied_of() rounds the number of reuses for each task, which real tasks do not.
    whole.metrics.reused = sum(part.metrics.reused for part in parts)
    whole.metrics.reused_by_site.update(
        attn=whole.metrics.reused - whole.metrics.reused_by_site["attn"]
    )
    merged, expected = measured_of(POINT, CONFIG, parts), measured_of(POINT, CONFIG, [whole])
    for name, value in expected.row.items():
        if name == "latency_s":
            assert merged.row[name] == 2.0 / parts[0].metrics.timed
        elif isinstance(value, float | list):
            assert merged.row[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
        else:
            assert merged.row[name] == value, name
    assert (merged.images == expected.images).all()


def test_a_mean_and_its_error_are_those_of_the_samples():
    values = [0.1, 0.4, 0.2, 0.2, 0.05]
    row = measured_of(POINT, CONFIG, [tallied_of(values, torch.randn(5, 3), 0)]).row
    column = torch.tensor(values, dtype=torch.float64)
    half = 1.96 * float(column.std()) / 5**0.5
    assert row["latent_rel_l2"] == pytest.approx(float(column.mean()), rel=1e-6)
    low, high = row["latent_rel_l2_ci95"]
    assert high - low == pytest.approx(2 * half, rel=1e-5)
    assert low == pytest.approx(float(column.mean()) - half, rel=1e-5)


def test_errors_of_single_samples_keep_their_order_over_tasks():
    values = [0.1, 0.4, 0.2, 0.2, 0.05]
    features = torch.randn(5, 3)
    parts = [tallied_of(values[:2], features[:2], 0), tallied_of(values[2:], features[2:], 2)]
    row = measured_of(POINT, CONFIG, parts).row
    assert row["latent_rel_l2_samples"] == pytest.approx(values)
    # The 90th percentile lies at index 3.6 of the sorted errors (linear interpolation).
    assert row["latent_rel_l2_p90"] == pytest.approx(0.2 + 0.6 * 0.2)
    assert row["latent_rel_l2_worst"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("samples", "batch", "part", "expected"),
    [
        (12, 2, 5, [(0, 6), (6, 12)]),
        (7, 4, 1, [(0, 4), (4, 7)]),
        (7, 4, 1024, [(0, 7)]),
        (1, 32, 1, [(0, 1)]),
    ],
)
def test_parts_are_of_whole_batches(samples, batch, part, expected):
    config = replace(CONFIG, num_samples=samples, batch_size=batch, part_samples=part)
    assert [(one.start, one.stop) for one in config.parts_of(POINT)] == expected
    assert sum(map(len, config.parts_of(POINT))) == samples


def test_parts_of_different_devices_are_refused():
    features = torch.randn(2, 3)
    parts = [tallied_of([0.1, 0.2], features, 0), tallied_of([0.1, 0.2], features, 2)]
    other = replace(parts[1], device="NVIDIA A100-SXM4-80GB")
    with pytest.raises(InputError, match=r"on one device. Got \['NVIDIA A100.*interval period=2"):
        measured_of(POINT, CONFIG, [parts[0], other])


def test_a_measured_point_in_parts_is_the_point():
    """Two workers measure the same images from the same batches."""
    config = EvaluateConfig(
        model="digits", num_samples=10, batch_size=2, steps=6, guidance_scale=2.0, part_samples=4
    )
    evaluator = EvaluationWorker(config)
    parts = [evaluator.measure_part(part) for part in config.parts_of(POINT)]
    assert [part.metrics.samples for part in parts] == [4, 4, 2]
    assert [part.metrics.timed for part in parts] == [2, 0, 0]
    merged = measured_of(POINT, config, parts)
    evaluator.config = replace(config, part_samples=100)
    whole = evaluator.measure(POINT)
    for name, value in whole.row.items():
        # Peak memory is that of the process so far, and grows over the test.
        if name in {*TIMES, "peak_memory_mb"}:
            continue
        if isinstance(value, float | list):
            # The covariance of few samples is singular, so that its root amplifies rounding.
            assert merged.row[name] == pytest.approx(value, rel=1e-6 if name == "fid" else 1e-9)
        else:
            assert merged.row[name] == value, name
    assert len(merged.images) == 8
    assert (merged.images == whole.images).all()
    assert (merged.reference_images == whole.reference_images).all()


def test_a_worker_on_another_device_is_refused():
    with pytest.raises(InputError, match=r"--accelerator-type must be.*A100.*with a worker on cpu"):
        EvaluationWorker(CONFIG, accelerator_type="A100")
