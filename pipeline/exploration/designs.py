"""Exploration designs: random reuse decisions of a trajectory, drawn before the trajectory runs.

Draws come from a generator keyed by the trajectory, so that the decisions do not depend on worker,
batch or attempt. A gate with no cached entry, or with an entry older than ``max_gap`` steps,
computes whatever was drawn; the probability of its action is then 1. The probabilities are logged
as propensities, which off-policy estimation needs (Horvitz and Thompson, JASA 1952; Bottou et al.,
JMLR 2013).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from dqar.step_schedule import StepSchedule
from pipeline.exploration.gap_distributions import (
    LONGEST_GAP,
    GapLaw,
    draw_near_law,
    draw_paced_law,
    draw_regular_law,
    draw_schedule,
)
from pipeline.models.noise import generator_for

Design = Literal[
    "paced", "regular", "near-policy", "step-synchronised", "layer-blocked", "independent"
]
"""Name of an exploration design, which says which gates share a random draw.

``paced``, ``regular`` and ``near-policy`` compute all gates of a step together, at the steps of a
random schedule (:mod:`pipeline.exploration.gap_distributions`); ``near-policy`` draws schedules
around the plans of a trained policy. The other designs draw reuse with a fixed probability:
``step-synchronised`` once for all gates of a step, ``layer-blocked`` once for each of eight runs of
neighbouring gates, ``independent`` once for each gate.
"""

DESIGNS: tuple[Design, ...] = get_args(Design)
BLOCKS = 8
"""Number of runs of neighbouring gates that share a draw in the design ``layer-blocked``."""
RATES = (0.35, 0.55, 0.75, 0.9)
"""Probabilities of reuse in the designs that draw at each step; each trajectory draws one."""
MAX_GAPS = (1, 2, 3, 4, 6)
"""Largest gaps in the designs that draw at each step; each trajectory draws one. Without a limit,
gaps are geometrically distributed: rare long gaps cause most of the damage, and hide the
differences between short gaps, which good schedules consist of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomSchedule:
    """Random reuse decisions of one trajectory, for each of t steps and g gates of a step."""

    design: Design
    """Design that the decisions were drawn from."""
    rate: float
    """Intended share of the gates that reuse."""
    max_gap: int
    """Largest gap of a reuse, in steps since the entry was computed; a gate beyond it computes."""
    wants_reuse: Bool[Tensor, "t g"]
    """True where reuse was drawn."""
    probability: Float[Tensor, "t g"]
    """Probability of drawing reuse, given the rate and the draws of earlier steps."""
    draw_id: Int[Tensor, "t g"]
    """Number of the random draw; gates that share a draw have the same number."""

    def propensity(self, eligible: Bool[Tensor, "t g"]) -> Float[Tensor, "t g"]:
        """Return the probability of the action that each gate took, given the earlier steps.

        Args:
            eligible: True where a gate had an entry within ``max_gap``, so that it could reuse.
        """
        of_action = torch.where(self.wants_reuse, self.probability, 1.0 - self.probability)
        return torch.where(eligible, of_action, 1.0)


def explore(
    designs: tuple[Design, ...],
    seed: int,
    trajectory: int,
    steps: int,
    num_gates: int,
    schedules: tuple[StepSchedule, ...] = (),
) -> RandomSchedule:
    """Draw the reuse decisions of one trajectory.

    Args:
        designs: designs that the trajectories take in turns.
        seed: random seed of the collection.
        trajectory: index of the trajectory; with ``seed`` it keys the generator.
        steps: sampling steps.
        num_gates: gates of a step: layers times sites.
        schedules: schedules that the design ``near-policy`` explores around.
    """
    design = designs[trajectory % len(designs)]
    generator = generator_for("explore", seed, trajectory)
    laws: dict[Design, Callable[[int, Generator], tuple[float, GapLaw]]] = {
        "paced": draw_paced_law,
        "regular": draw_regular_law,
        "near-policy": partial(draw_near_law, schedules),
    }
    if design in laws:
        share, law = laws[design](steps, generator)
        return _scheduled(design, share, law, num_gates, generator)
    return _drawn_each_step(design, steps, num_gates, generator)


def _scheduled(
    design: Design, share: float, law: GapLaw, num_gates: int, generator: Generator
) -> RandomSchedule:
    steps = len(law)
    wants_reuse, probability = draw_schedule(law, generator)
    return RandomSchedule(
        design=design,
        rate=1.0 - share,
        max_gap=LONGEST_GAP,
        wants_reuse=wants_reuse[:, None].expand(steps, num_gates),
        probability=probability[:, None].expand(steps, num_gates),
        draw_id=torch.arange(steps)[:, None].expand(steps, num_gates),
    )


def _drawn_each_step(
    design: Design, steps: int, num_gates: int, generator: Generator
) -> RandomSchedule:
    rate = RATES[int(torch.randint(len(RATES), (), generator=generator))]
    max_gap = MAX_GAPS[int(torch.randint(len(MAX_GAPS), (), generator=generator))]
    draw_of = _draw_of_gate(design, num_gates)
    draws = torch.rand(steps, int(draw_of.max()) + 1, generator=generator)
    draw_id = torch.arange(draws.numel()).view(draws.shape)
    return RandomSchedule(
        design=design,
        rate=rate,
        max_gap=max_gap,
        wants_reuse=(draws < rate)[:, draw_of],
        probability=torch.full((steps, num_gates), rate),
        draw_id=draw_id[:, draw_of],
    )


def _draw_of_gate(design: Design, num_gates: int) -> Int[Tensor, " g"]:
    gates = torch.arange(num_gates)
    if design == "independent":
        return gates
    return gates * min(BLOCKS, num_gates) // num_gates if design == "layer-blocked" else gates * 0


SHARES_TAKEN = range(1, 1001)
"""Shares of a design; a trajectory takes its design from a list that repeats each so often."""
TURNS_AT_MOST = 10_000
"""Longest list of designs; the plan of a collection stores it."""


def parse_designs(text: str) -> tuple[Design, ...]:
    """Parse designs with shares, and repeat each design as often as its share.

    Example: ``"paced:2,regular"`` gives ``("paced", "paced", "regular")``.

    Raises:
        ValueError: for an unknown design or a share that is not a whole number from 1 to 1000.
    """
    designs: list[Design] = []
    for part in text.split(","):
        name, _, share = part.strip().partition(":")
        known: list[Design] = [design for design in DESIGNS if design == name]
        is_count = share.isdecimal() and len(share) < 9
        if not known or (share and not is_count) or int(share or 1) not in SHARES_TAKEN:
            raise ValueError(
                "Exploration designs must be names with whole-number shares up to 1000, such as "
                f"paced:5,regular:1. Got {part!r}. "
                f"Choose from {', '.join(DESIGNS)}."
            )
        designs += known * int(share or 1)
        if len(designs) > TURNS_AT_MOST:
            raise ValueError(
                f"Exploration designs must have shares of at most {TURNS_AT_MOST} in total. Got "
                f"more in a text of {len(text)} letters. Pass --exploration paced."
            )
    return tuple(designs)
