"""Reuse ratios of layer schedules by arithmetic."""

import pytest

from pipeline.evaluate.sweeps.flags import Direction, LayerFraction, ModelSweep, Warmup
from pipeline.evaluate.sweeps.grids import schedule_grid, schedule_ratio

PAPER_PERCENT = [11.57, 18.71, 24.50, 28.71, 38.71]
"""Reuse ratios of the DQAR paper at its layer fractions."""


def default_schedules(kind):
    return schedule_grid(kind(out="out", sweep=ModelSweep())).schedules()


def test_the_papers_layer_fractions_give_its_ratios():
    schedules = default_schedules(LayerFraction)
    ratios = [100 * schedule_ratio(one, num_layers=28, steps=50) for one in schedules]
    assert ratios == pytest.approx(PAPER_PERCENT, abs=0.01)


@pytest.mark.parametrize(("num_layers", "steps"), [(28, 50), (8, 6)])
def test_both_directions_reuse_alike(num_layers, steps):
    schedules = default_schedules(Direction)
    half = len(schedules) // 2
    assert [one.schedule_type for one in schedules] == ["linear"] * half + ["linear-reverse"] * half
    ratios = [schedule_ratio(one, num_layers=num_layers, steps=steps) for one in schedules]
    assert ratios[:half] == ratios[half:]


def test_a_longer_warm_up_reuses_less():
    schedules = default_schedules(Warmup)
    assert [one.warmup_fraction for one in schedules] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert {one.layer_fraction for one in schedules} == {1 / 3}
    ratios = [schedule_ratio(one, num_layers=28, steps=50) for one in schedules]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[1] == pytest.approx(0.1157, abs=1e-4)
