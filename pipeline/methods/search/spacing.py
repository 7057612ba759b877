"""Spacing rules: computed steps at the quantiles of a distribution with one or two parameters.

The distribution is Kumaraswamy's (1980, a closed form near the Beta distribution): the k-th of K
computed steps is the step nearest to ``(T - 1) * (1 - (1 - k / (K - 1)) ** p) ** q``. With q = 1
only the end of the run is denser than its begin (one-sided); with another q the begin is changed
too (two-sided).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dqar.step_schedule import ReuseSetting, StepSchedule

SETTINGS: tuple[ReuseSetting, ...] = ((2, 0.3), (1, 0.5))
"""Forecast orders and gains that the first tries of a rule have."""
LATE_POWERS = (1.75, 1.5, 2.0, 1.25, 1.0)
"""Powers of the late end that the first tries have, the most promising first."""
EARLY_POWERS = (1.0, 0.85, 1.2)
"""Powers of the early end that the first tries have, the most promising first."""
GAIN_CHANGE = 0.2
"""Change of the gain of the error feedback, around the best."""
POWER_CHANGE = 0.12
"""Change of either power, around the best."""
LEAST_POWER = 0.2
"""Least power of a neighbour: the rule is defined for positive powers only, and the best of one
number of computed steps is where the next number starts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spacing:
    """A spacing rule with its forecast order and gain; the same for any number of steps."""

    late: float
    """Power p: above 1 the computed steps are denser at the end of the run."""
    early: float = 1.0
    """Power q: above 1 the computed steps are denser at the begin of the run."""
    forecast_order: int
    """Order of the forecasts that a reuse shows."""
    feedback: float
    """Gain of the error feedback."""

    def schedule(self, number: int, steps: int) -> StepSchedule:
        """Return the schedule with ``number`` of ``steps`` steps computed."""
        return StepSchedule(
            computed=spaced_steps(number, steps, self.late, self.early),
            forecast_order=self.forecast_order,
            feedback=self.feedback,
        )


def spaced_steps(number: int, steps: int, late: float, early: float = 1.0) -> tuple[int, ...]:
    """Return ``number`` distinct steps of ``steps`` at the quantiles of the rule, from 0 on."""
    if number == 1:
        return (0,)
    shares = ((1.0 - (1.0 - k / (number - 1)) ** late) ** early for k in range(number))
    return distinct_steps([(steps - 1) * share for share in shares], steps)


def distinct_steps(places: list[float], steps: int) -> tuple[int, ...]:
    """Round ascending places to distinct steps, the first of them 0, and the last below ``steps``.

    A step that is taken moves the place to the next one; at the end of the run, to the one before.
    """
    rounded: list[int] = []
    for place in places:
        rounded.append(max(round(place), rounded[-1] + 1) if rounded else 0)
    for index in reversed(range(len(rounded))):
        rounded[index] = min(rounded[index], steps - (len(rounded) - index))
    return tuple(rounded)


def first_spacings() -> list[Spacing]:
    """Return the rules to try first: one-sided powers with each setting, then two-sided ones."""
    return [
        Spacing(late=late, early=early, forecast_order=order, feedback=gain)
        for early in EARLY_POWERS
        for late in LATE_POWERS
        for order, gain in SETTINGS
    ]


def spacings_around(best: Spacing, scale: float = 1.0) -> list[Spacing]:
    """Return a rule and its neighbours, which differ in either power, the gain or the order.

    Args:
        scale: factor on the changes.
    """
    power, gain = scale * POWER_CHANGE, scale * GAIN_CHANGE
    late = [replace(best, late=max(LEAST_POWER, best.late + by)) for by in (power, -power)]
    early = [replace(best, early=max(LEAST_POWER, best.early + by)) for by in (-power, power)]
    both = [replace(one, early=two.early) for one in late for two in early]
    gains = [
        replace(best, feedback=round(min(1.0, max(0.0, best.feedback + change)), 4))
        for change in (gain, -gain)
    ]
    others = [(order, new) for order, new in SETTINGS if order != best.forecast_order]
    orders = [replace(best, forecast_order=order, feedback=new) for order, new in others]
    return [best, *late, *early, *gains, *orders, *both]
