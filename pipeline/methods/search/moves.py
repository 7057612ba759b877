"""Local moves of a schedule: one computed step moved, or another gain or forecast order."""

from __future__ import annotations

import random
from dataclasses import replace

from dqar.records import MAX_ORDER
from dqar.step_schedule import StepSchedule

SHIFTS = (-2, -1, 1, 2)
"""Steps by which a move shifts one computed step."""
ELSEWHERE = 0.25
"""Share of the moves that put a computed step anywhere else."""
OTHER_SETTING = 0.2
"""Share of the moves that change the gain or the forecast order in place of a step."""
GAIN_CHANGES = (-0.2, -0.1, 0.1, 0.2)
"""Changes of the gain of the error feedback."""
OTHER_ORDER = 0.25
"""Share of the other settings that change the forecast order."""


def random_move(schedule: StepSchedule, steps: int, draws: random.Random) -> StepSchedule:
    """Return a neighbour of a schedule, with the same number of computed steps.

    Args:
        steps: sampling steps.
        draws: source of the random choices.
    """
    if draws.random() < OTHER_SETTING:
        return _other_setting(schedule, draws)
    return _other_step(schedule, steps, draws)


def _other_setting(schedule: StepSchedule, draws: random.Random) -> StepSchedule:
    if draws.random() < OTHER_ORDER:
        others = [order for order in range(MAX_ORDER + 1) if order != schedule.forecast_order]
        return replace(schedule, forecast_order=draws.choice(others))
    gain = schedule.feedback + draws.choice(GAIN_CHANGES)
    return schedule.with_feedback(round(min(1.0, max(0.0, gain)), 4))


def _other_step(schedule: StepSchedule, steps: int, draws: random.Random) -> StepSchedule:
    """Move a computed step other than step 0; the schedule itself if no step is free there."""
    if len(schedule) < 2 or len(schedule) == steps:
        return schedule
    taken = set(schedule.computed)
    step = draws.choice(schedule.computed[1:])
    if draws.random() < ELSEWHERE:
        place = draws.choice([one for one in range(steps) if one not in taken])
    else:
        place = step + draws.choice(SHIFTS)
    if place in taken or not 0 < place < steps:
        return schedule
    return replace(schedule, computed=tuple(sorted(taken - {step} | {place})))
