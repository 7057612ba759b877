"""Random schedules: distributions of the gap, in steps, from one computation to the next.

All gates of a step compute together. The computed steps form a renewal process (Cox, *Renewal
Theory*, 1962) whose gap distribution depends on the step: at each computed step the gap to the next
one is drawn from a known distribution. The probability of reuse at a step, given the steps before,
is then exact: one minus the hazard of the gap distribution.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from dqar.step_schedule import StepSchedule

LONGEST_GAP = 12
"""Largest gap, in steps from one computation to the next."""
SHARES = (0.16, 0.6)
"""Smallest and largest share of steps that compute; ``paced`` draws uniformly between them."""
BEND = 1.2
"""Standard deviation of the linear and of the quadratic coefficient of the log density over the
run, in the design ``paced``."""
JITTER = 0.35
"""Largest relative deviation of a gap from the inverse density in the design ``paced``."""
PERIODS = (2, 3, 4, 5, 6)
"""Periods of the design ``regular``, drawn uniformly."""
SLIP = 0.1
"""Probability that a regular or planned gap is one step shorter, and equally that it is one step
longer."""
LEFT_OUT = 0.05
"""Probability that a planned computation is left out."""

GapLaw = Float[Tensor, "t k"]
"""Gap distribution: element [s, k - 1] is the probability of a gap of k steps after a computation
at step s, for k from 1 to :data:`LONGEST_GAP`."""


def draw_paced_law(steps: int, generator: Generator) -> tuple[float, GapLaw]:
    """Draw a smooth random density of computations; return the share of computed steps that was
    drawn for it, and its gap distribution.

    The logarithm of the density is a parabola over the run, so that the schedules compute more
    often early, late, in the middle or at both ends.
    """
    low, high = SHARES
    share = low + (high - low) * float(torch.rand((), generator=generator))
    tilt, bend = (BEND * torch.randn(2, generator=generator)).tolist()
    place = torch.linspace(0.0, 1.0, steps)
    density = (tilt * (2 * place - 1) + bend * (6 * place.square() - 6 * place + 1)).exp()
    return share, paced_law((share * density / density.mean()).clamp(max=1.0))


def paced_law(density: Float[Tensor, " t"]) -> GapLaw:
    """Return the distribution of gaps that are uniform within :data:`JITTER` of the inverse
    density, and rounded.

    Args:
        density: computations per step, at each step.
    """
    bounds = torch.arange(1, LONGEST_GAP) + 0.5
    reached = (bounds * density[:, None] - (1 - JITTER)) / (2 * JITTER)
    cumulative = torch.cat([reached.clamp(0.0, 1.0), torch.ones(len(density), 1)], dim=1)
    return cumulative.diff(dim=1, prepend=torch.zeros(len(density), 1))


def draw_regular_law(steps: int, generator: Generator) -> tuple[float, GapLaw]:
    """Draw the period of a regular schedule; return its share of computed steps and its gap
    distribution."""
    period = PERIODS[int(torch.randint(len(PERIODS), (), generator=generator))]
    return 1.0 / period, regular_law(steps, period)


def regular_law(steps: int, period: int) -> GapLaw:
    """Return the distribution of gaps of ``period`` steps, or of one step less or more
    (:data:`SLIP` each). The first gap, which is the phase, is uniform from 1 to ``period``."""
    law = torch.zeros(steps, LONGEST_GAP)
    law[:, period - 1] = 1.0 - 2 * SLIP
    law[:, [period - 2, period]] = SLIP
    law[0] = 0.0
    law[0, :period] = 1.0 / period
    return law


def draw_near_law(
    schedules: tuple[StepSchedule, ...], steps: int, generator: Generator
) -> tuple[float, GapLaw]:
    """Draw one of the schedules uniformly; return its share of computed steps and the gap
    distribution of schedules near it."""
    schedule = schedules[int(torch.randint(len(schedules), (), generator=generator))]
    return len(schedule) / steps, near_law(steps, schedule)


def near_law(steps: int, schedule: StepSchedule) -> GapLaw:
    """Return the gap distribution of schedules near a planned one.

    From a computed step the gap leads to the next planned computation, to the step before or the
    step after it (probability :data:`SLIP` each), or to the planned computation after it
    (:data:`LEFT_OUT`). Of twenty planned computations about four are moved by a step and one is
    left out. Changes are few so that they lie far apart in a run, where their effects on the error
    nearly add up, and so that forecasts mostly extrapolate from the planned steps; each planned
    computation is still moved in many trajectories. Moving a computation by a step keeps their
    number, and measures where to compute; leaving one out measures the value of computing it. A
    moved computation does not move the following ones: the next gap leads back to the schedule.

    The probability of gaps below 1 is given to the other gaps. Where every step is planned to
    compute, a computation can therefore only move by being left out. Gaps above
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
    """Return the planned steps that a computation at ``step`` may be a move of: ``step`` if it is
    planned, else the planned ones of its two neighbours, else ``step``."""
    if step in computed:
        return [step]
    return [place for place in (step - 1, step + 1) if place in computed] or [step]


def _stops_after(place: int, computed: tuple[int, ...], steps: int) -> tuple[int, int]:
    """Return the next two planned computations after a step. The end of the run counts as one; a
    further one lies :data:`LONGEST_GAP` steps beyond the end."""
    beyond = steps + LONGEST_GAP
    following, one_more, *_ = [stop for stop in (*computed, steps, beyond, beyond) if stop > place]
    return following, one_more


def draw_schedule(
    law: GapLaw, generator: Generator
) -> tuple[Bool[Tensor, " t"], Float[Tensor, " t"]]:
    """Draw a schedule from a gap distribution.

    Step 0 always computes, because nothing is cached before it.

    Returns:
        True at the steps that reuse, and the probability of reuse at each step given the steps
        before it.
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
