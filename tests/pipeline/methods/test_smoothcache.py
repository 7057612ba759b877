"""SmoothCache: schedules of a threshold, and the thresholds that become operating points."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.gates.rules import MaskGate
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.base import COARSE, FINE, SweepGrid
from pipeline.methods.registry import method_names
from pipeline.methods.smoothcache import (
    Curves,
    CurveTask,
    SmoothCache,
    SmoothCacheTied,
    alphas_for,
    schedules,
)

NAN = float("nan")


def walked(curve, alpha):
    """Return the schedule of one site type, computed step by step in plain Python."""
    reuse, gap = [False], 0
    for step in range(1, len(curve[0])):
        gap += 1
        is_near = gap <= len(curve) and curve[gap - 1][step] <= alpha
        reuse.append(is_near)
        gap = gap if is_near else 0
    return reuse


def along(places, gaps):
    """Return the curve of a site whose output moves along a line."""
    steps = len(places)
    return torch.tensor(
        [
            [places[step] - places[step - gap] if step >= gap else NAN for step in range(steps)]
            for gap in range(1, gaps + 1)
        ]
    )


@st.composite
def rough(draw):
    """Draw curves of any shape, of one or two site types."""
    sites, gaps = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    steps = draw(st.integers(2, 12))
    values = st.floats(0.0, 1.0, width=32) | st.just(NAN)
    row = st.lists(values, min_size=steps, max_size=steps)
    curve = st.lists(row, min_size=gaps, max_size=gaps)
    return torch.tensor(draw(st.lists(curve, min_size=sites, max_size=sites)))


@st.composite
def straight(draw):
    moves = draw(st.lists(st.integers(1, 50), min_size=1, max_size=30))
    places = list(itertools.accumulate([0, *moves]))
    return along([float(place) for place in places], draw(st.integers(1, 6)))[None]


def test_a_schedule_by_hand():
    # The rows of the curve are gaps 1 and 2. A step reuses where its value is at most alpha = 0.2.
    curve = torch.tensor([[[NAN, 0.1, 0.3, 0.2, 0.1, 0.1], [NAN, NAN, 0.2, 0.9, 0.3, 0.1]]])
    (reuse,) = schedules(curve, torch.tensor([0.2]))
    # Step 1 has gap 1 and step 2 has gap 2 from step 0. Step 3 would have gap 3, which the curve
    # does not hold, so it computes. Step 4 has gap 1 from step 3, step 5 has gap 2.
    assert reuse[0].tolist() == [False, True, True, False, True, True]


@given(rough(), st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=4))
def test_schedules_are_the_walk_of_each_site(error, alphas):
    found = schedules(error, torch.tensor(alphas))
    for alpha, sites in zip(alphas, found, strict=True):
        for curve, reuse in zip(error.tolist(), sites.tolist(), strict=True):
            assert reuse == walked(curve, alpha)


@given(rough())
def test_no_reuse_is_of_unknown_distance_or_too_long_a_gap(error):
    (reuse,) = schedules(error, torch.tensor([torch.inf]))
    for site in reuse.tolist():
        assert not site[0]
        runs = [len(list(run)) for is_reused, run in itertools.groupby(site) if is_reused]
        assert max(runs, default=0) <= error.shape[1]


@given(straight(), st.floats(0, 300), st.floats(0, 300))
def test_more_alpha_is_more_reuse_where_a_longer_way_is_further(error, one, other):
    low, high = schedules(error, torch.tensor(sorted([one, other]))).sum(dim=(1, 2))
    assert low <= high


@given(rough(), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3))
def test_no_threshold_comes_nearer_a_ratio(error, ratios):
    chosen = alphas_for(tuple(ratios), error)
    achieved = schedules(error, chosen).double().mean(dim=(1, 2))
    anything = torch.linspace(0.0, 1.0, 41)
    others = schedules(error, anything).double().mean(dim=(1, 2))
    for ratio in ratios:
        nearest = (achieved - ratio).abs().min()
        assert nearest <= (others - ratio).abs().min() + 1e-12


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("grid", [FINE, COARSE], ids=["fine", "coarse"])
def test_ratios_are_hit_within_a_step_of_a_site(steps, grid):
    generator = torch.Generator().manual_seed(steps)
    places = torch.rand(2, steps, generator=generator, dtype=torch.float64).cumsum(dim=1)
    error = torch.stack([along(one.tolist(), 8) for one in places])
    achieved = schedules(error, alphas_for(grid.reuse_ratios, error)).double().mean(dim=(1, 2))
    for ratio in grid.reuse_ratios:
        assert (achieved - ratio).abs().min() <= 1 / steps


def test_a_curve_that_diverged_never_reuses():
    error = torch.full((1, 3, 8), NAN)
    assert alphas_for((0.5,), error).tolist() == [0.0]
    assert not schedules(error, torch.tensor([0.0])).any()


# Points.


@pytest.fixture(scope="module")
def curves():
    """Curves of the shipped model."""
    config = EvaluateConfig(
        model="digits", steps=20, guidance_scale=2.0, sites=("attn", "ff"), num_samples=4
    )
    return EvaluationWorker(config).calibrate(CurveTask(num_samples=4))


def mask_of(point):
    assert isinstance(point.gate, MaskGate)
    return point.gate.reuse


def test_a_longer_gap_is_a_longer_way(curves):
    mean = curves.error.mean(dim=1)[:, :3, 8:].mean(dim=2)
    assert (mean.diff(dim=1) > 0).all()
    assert (mean > 0).all()


def test_points_do_what_their_schedule_says(curves):
    points = SmoothCache.sweep(COARSE, curves)
    assert len({point.operating_point for point in points}) == len(points)
    for point in points:
        alpha = float(point.operating_point.removeprefix("alpha="))
        mask = mask_of(point)
        assert mask.shape == (20, 2 * 8, 1)
        by_site = mask[:, :, 0].T.unflatten(0, (2, 8))
        # All layers of a site type have one schedule, by the mean of the curves over layers.
        assert (by_site == by_site[:, :1]).all()
        mean = curves.error.mean(dim=1).tolist()
        for curve, reuse in zip(mean, by_site[:, 0].tolist(), strict=True):
            # The alpha in the name is rounded, and may lie on either side of a value of the curve.
            assert reuse in (walked(curve, alpha * 1.00001), walked(curve, alpha * 0.99999))


@pytest.mark.parametrize("method", [SmoothCache, SmoothCacheTied])
def test_points_of_the_shipped_model_hit_their_ratios(curves, method):
    points = method.sweep(COARSE, curves)
    achieved = [float(mask_of(point).double().mean()) for point in points]
    assert {point.method for point in points} == {method.name} <= set(method_names())
    assert {(point.steps, point.forecast_order) for point in points} == {(20, 0)}
    for ratio in COARSE.reuse_ratios:
        assert min(abs(one - ratio) for one in achieved) <= 1 / 20


def test_a_site_that_moves_less_reuses_more():
    near, far = along([0.1 * step for step in range(9)], 4), along([1.0 * s for s in range(9)], 4)
    error = torch.stack([far, near])[:, None]
    for method in (SmoothCache, SmoothCacheTied):
        (point,) = method.sweep(SweepGrid(reuse_ratios=(0.5,)), Curves(error=error))
        first, second = mask_of(point)[:, :, 0].T.tolist()
        assert (first == second) if method is SmoothCacheTied else (sum(first) < sum(second))


def test_one_schedule_for_all_sites_is_of_their_mean_curve(curves):
    error = curves.error.mean(dim=(0, 1)).tolist()
    for point in SmoothCacheTied.sweep(COARSE, curves):
        alpha = float(point.operating_point.removeprefix("alpha="))
        mask = mask_of(point)[:, :, 0]
        assert mask.shape == (20, 2 * 8)
        assert (mask == mask[:, :1]).all()
        assert mask[:, 0].tolist() in (
            walked(error, alpha * 1.00001),
            walked(error, alpha / 1.00001),
        )


def test_of_one_site_both_methods_are_the_same(curves):
    alone = Curves(error=curves.error[:1])
    one, other = (method.sweep(COARSE, alone) for method in (SmoothCache, SmoothCacheTied))
    for mine, theirs in zip(one, other, strict=True):
        assert mine.operating_point == theirs.operating_point
        assert torch.equal(mask_of(mine), mask_of(theirs))
