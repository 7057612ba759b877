from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.layer_schedule import SCHEDULE_TYPES, LayerSchedule

LAYERS, STEPS = 28, 50


def reuse_percent(schedule: LayerSchedule) -> float:
    """Percentage of the gates of a run, step 0 included, that may reuse."""
    allowed = sum(schedule.num_eligible(i / (STEPS - 1), LAYERS) for i in range(STEPS))
    return 100.0 * allowed / (STEPS * LAYERS)


@pytest.mark.parametrize(
    ("fraction", "percent"),
    [(1 / 3, 11.57), (1 / 2, 18.71), (2 / 3, 24.50), (3 / 4, 28.71), (1.0, 38.71)],
)
def test_linear_gives_the_seeds_percentages(fraction, percent):
    schedule = LayerSchedule(schedule_type="linear", warmup_fraction=0.2, layer_fraction=fraction)
    assert reuse_percent(schedule) == pytest.approx(percent, abs=0.01)


@pytest.mark.parametrize(
    ("progress", "layers"),
    [(0.0, 9), (0.299, 9), (0.3, 18), (0.699, 18), (0.7, 28), (1.0, 28)],
)
def test_step_reaches_a_third_two_thirds_and_all(progress, layers):
    assert LayerSchedule(schedule_type="step").num_eligible(progress, LAYERS) == layers


def test_all_limits_nothing():
    assert LayerSchedule(schedule_type="all").num_eligible(0.0, 7) == 7


def test_linear_waits_for_the_warm_up():
    schedule = LayerSchedule(schedule_type="linear", warmup_fraction=0.5)
    assert [schedule.num_eligible(p, 10) for p in (0.0, 0.49, 0.5, 0.75, 1.0)] == [0, 0, 0, 5, 10]


def test_warm_up_of_the_whole_run_never_reuses():
    schedule = LayerSchedule(schedule_type="linear", warmup_fraction=1.0)
    assert schedule.num_eligible(1.0, 10) == 0


@given(
    kind=st.sampled_from(SCHEDULE_TYPES),
    warmup=st.floats(0, 1),
    fraction=st.floats(0, 1),
    early=st.floats(0, 1),
    late=st.floats(0, 1),
    layers=st.integers(1, 60),
)
def test_limit_grows_with_progress_and_stays_in_the_model(
    kind, warmup, fraction, early, late, layers
):
    schedule = LayerSchedule(schedule_type=kind, warmup_fraction=warmup, layer_fraction=fraction)
    early, late = sorted((early, late))
    limits = [schedule.num_eligible(progress, layers) for progress in (early, late)]
    assert 0 <= limits[0] <= limits[1] <= layers


@pytest.mark.parametrize("field", ["warmup_fraction", "layer_fraction"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_shares_must_be_shares(field, value):
    with pytest.raises(ValueError, match=rf"{field} must be in \[0, 1\]"):
        LayerSchedule(**{field: value})


def layers_of(schedule: LayerSchedule, progress: float, snr: float = 1.0, layers: int = 9) -> list:
    return (
        torch.nonzero(schedule.eligible(torch.arange(layers), progress, layers, snr))
        .flatten()
        .tolist()
    )


def test_reverse_takes_as_many_from_the_other_end():
    forward, reverse = (
        LayerSchedule(schedule_type=kind, warmup_fraction=0.2, layer_fraction=0.5)
        for kind in ("linear", "linear-reverse")
    )
    assert layers_of(forward, 1.0) == [0, 1, 2, 3]
    assert layers_of(reverse, 1.0) == [5, 6, 7, 8]
    assert reuse_percent(forward) == reuse_percent(reverse)


def test_exponential_is_the_square_of_the_progress():
    schedule = LayerSchedule(schedule_type="exponential")
    assert [schedule.num_eligible(p, 28) for p in (0.0, 0.5, 0.9, 1.0)] == [0, 7, 22, 28]


@pytest.mark.parametrize(("snr", "deepest"), [(0.99, 5), (1.0, 8), (50.0, 8)])
def test_deep_layers_wait_for_the_snr(snr, deepest):
    schedule = LayerSchedule(schedule_type="all", deep_layer_snr_threshold=1.0)
    assert layers_of(schedule, 0.5, snr)[-1] == deepest


def test_deep_layers_begin_at_two_thirds_of_the_depth():
    schedule = LayerSchedule(schedule_type="all", deep_layer_snr_threshold=1.0)
    # 2 * 28 / 3 = 18.67, so layer 19 is the first of the deepest third.
    assert layers_of(schedule, 1.0, 0.5, 28)[-1] == 18


@given(kind=st.sampled_from(SCHEDULE_TYPES), progress=st.floats(0, 1), layers=st.integers(1, 40))
def test_as_many_layers_are_eligible_as_the_limit_says(kind, progress, layers):
    schedule = LayerSchedule(schedule_type=kind)
    assert len(layers_of(schedule, progress, 1.0, layers)) == schedule.num_eligible(
        progress, layers
    )


def test_negative_snr_threshold_is_refused():
    with pytest.raises(ValueError, match="deep_layer_snr_threshold must not be negative"):
        LayerSchedule(deep_layer_snr_threshold=-1.0)


def test_unknown_schedule_is_refused():
    unchecked: Any = getattr(LayerSchedule.__init__, "__wrapped__", LayerSchedule.__init__)
    with pytest.raises(ValueError, match="schedule_type must be one of"):
        unchecked(object.__new__(LayerSchedule), schedule_type="cosine")
