"""Schedules drawn at random: how many steps pass from one computation to the next.

All gates of a step compute together, and where they do is a renewal process: at each computation
the gap to the next one is drawn from a known law, so that the propensity of every step is exact.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from dqar.step_schedule import StepSchedule

LONGEST_GAP = 12
"""Steps from one computation to the next, at most."""
SHARES = (0.16, 0.6)
"""Shares of the steps that compute, drawn evenly."""
BEND = 1.2
"""Standard deviation of the log density's linear and of its quadratic part over the run."""
JITTER = 0.35
"""How far a gap may be from the density's, either way, as a share of it."""
PERIODS = (2, 3, 4, 5, 6)
"""Periods of regular schedules, drawn evenly."""
SLIP = 0.1
"""Probability that a regular or a planned gap is one step shorter, and that it is one longer."""
LEFT_OUT = 0.05
"""Probability that a planned computation is left out."""

GapLaw = Float[Tensor, "t k"]
"""Probability of a gap of 1, 2, ... :data:`LONGEST_GAP` steps after a computation at a step."""


def draw_paced_law(steps: int, generator: Generator) -> tuple[float, GapLaw]:
    """The share that computes and the law of a smooth random density of computations.

    Its logarithm is a parabola over the run, so that schedules are explored that compute early,
    late, in the middle or at both ends.
    """
    low, high = SHARES
    share = low + (high - low) * float(torch.rand((), generator=generator))
    tilt, bend = (BEND * torch.randn(2, generator=generator)).tolist()
    place = torch.linspace(0.0, 1.0, steps)
    density = (tilt * (2 * place - 1) + bend * (6 * place.square() - 6 * place + 1)).exp()
    return share, paced_law((share * density / density.mean()).clamp(max=1.0))


def paced_law(density: Float[Tensor, " t"]) -> GapLaw:
    """Gaps around the inverse of a density in computations a step: evenly distributed within
    :data:`JITTER` of it, rounded."""
    bounds = torch.arange(1, LONGEST_GAP) + 0.5
    reached = (bounds * density[:, None] - (1 - JITTER)) / (2 * JITTER)
    cumulative = torch.cat([reached.clamp(0.0, 1.0), torch.ones(len(density), 1)], dim=1)
    return cumulative.diff(dim=1, prepend=torch.zeros(len(density), 1))


def draw_regular_law(steps: int, generator: Generator) -> tuple[float, GapLaw]:
    """The share that computes and the law of a regular schedule of random period and phase, whose
    gaps slip now and then."""
    period = PERIODS[int(torch.randint(len(PERIODS), (), generator=generator))]
    return 1.0 / period, regular_law(steps, period)


def regular_law(steps: int, period: int) -> GapLaw:
    """Gaps of ``period``, or one step off; the first is anything up to it (the phase)."""
    law = torch.zeros(steps, LONGEST_GAP)
    law[:, period - 1] = 1.0 - 2 * SLIP
    law[:, [period - 2, period]] = SLIP
    law[0] = 0.0
    law[0, :period] = 1.0 / period
    return law


def draw_near_law(
    schedules: tuple[StepSchedule, ...], steps: int, generator: Generator
) -> tuple[float, GapLaw]:
    """The share that computes and the law of schedules near one of some, each as likely."""
    schedule = schedules[int(torch.randint(len(schedules), (), generator=generator))]
    return len(schedule) / steps, near_law(steps, schedule)


def near_law(steps: int, schedule: StepSchedule) -> GapLaw:
    """Gaps to the next computation of a schedule, to the step before or after it
    (:data:`SLIP` each), or to the one after next (:data:`LEFT_OUT`).

    Of twenty computations about four are moved and one is missing. So few are far apart, where
    their effects nearly add up, and leave the histories that forecasts continue as the schedule
    has them; yet each is moved in many trajectories. Moves of one step keep the number of
    computations, so that what they show is where to compute, and not how often; one left out
    shows what a computation is worth. What is moved does not move what follows: the next gap
    leads back to the schedule. Gaps below 1 cannot be, so that their share goes to the others, and
    where every step is planned to compute a move is one left out; gaps above
    :data:`LONGEST_GAP` are cut to it.
    """
    law = torch.zeros(steps, LONGEST_GAP)
    for step in range(steps):
        for place in _places_of(step, schedule.computed):
            following, one_more = _stops_after(place, schedule.computed, steps)
            kept = 1.0 - 2 * SLIP - LEFT_OUT
            odds = [(following, kept), (following - 1, SLIP), (following + 1, SLIP)]
            for stop, odd in [*odds, (one_more, LEFT_OUT)]:
                if stop > step:
                    law[step, min(stop - step, LONGEST_GAP) - 1] += odd
    return law / law.sum(dim=1, keepdim=True)


def _places_of(step: int, computed: tuple[int, ...]) -> list[int]:
    """Steps of a schedule that a computation at a step may stand for: its own, or those beside it,
    each as likely; itself where there is none."""
    if step in computed:
        return [step]
    return [place for place in (step - 1, step + 1) if place in computed] or [step]


def _stops_after(place: int, computed: tuple[int, ...], steps: int) -> tuple[int, int]:
    """The next two computations after a step. The end of the run is one, and nothing after it is
    within reach."""
    beyond = steps + LONGEST_GAP
    following, one_more, *_ = [stop for stop in (*computed, steps, beyond, beyond) if stop > place]
    return following, one_more


def draw_schedule(
    law: GapLaw, generator: Generator
) -> tuple[Bool[Tensor, " t"], Float[Tensor, " t"]]:
    """Where a schedule wants to reuse, and how probable that was, given its earlier steps.

    Step 0 computes: nothing is cached.
    """
    steps = len(law)
    wants_reuse = torch.ones(steps, dtype=torch.bool)
    probability = torch.zeros(steps)
    survival = law.flip(1).cumsum(1).flip(1)
    computed = 0
    while computed < steps:
        wants_reuse[computed] = False
        gap = 1 + int(torch.multinomial(law[computed], 1, generator=generator))
        following = survival[computed, : gap + 1]
        odds = torch.cat([following[1:] / following[:-1], torch.zeros(gap + 1 - len(following))])
        stop = min(computed + gap, steps - 1)
        probability[computed + 1 : stop + 1] = odds[: stop - computed]
        computed += gap
    return wants_reuse, probability.clamp(0.0, 1.0)
