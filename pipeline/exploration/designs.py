"""Exploration designs: which gates of a trajectory want to reuse, drawn before it runs.

Coins are drawn up front from the trajectory's own key, so the decisions depend on nothing that a
worker, a batch or an attempt could change. A gate with nothing cached, or with something too stale,
computes whatever its coin says; its propensity is then 1.
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
"""How coins are shared, and where they are thrown.

``paced``, ``regular``, ``near-policy``: all gates of a step together, computed at the steps of a
schedule that is drawn from a law of gaps (:mod:`pipeline.exploration.gap_distributions`); the last
around the plans of a trained policy. ``step-synchronised``: one coin for all gates of a step.
``layer-blocked``: one for each of eight runs of neighbouring gates. ``independent``: one a gate.
"""

DESIGNS: tuple[Design, ...] = get_args(Design)
BLOCKS = 8
"""Runs of neighbouring gates that share a coin when ``layer-blocked``."""
RATES = (0.35, 0.55, 0.75, 0.9)
"""Reuse rates of coins, drawn evenly."""
MAX_GAPS = (1, 2, 3, 4, 6)
"""Gap limits of coins, drawn evenly. Without a limit the gaps are geometric,
their rare long ones make up most of the damage, and the cheap ones that a good policy is made of
cannot be told apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomSchedule:
    """One trajectory's script."""

    design: Design
    rate: float
    """Share of the gates that it is to reuse."""
    max_gap: int
    """Staleness beyond which every gate of the trajectory computes."""
    wants_reuse: Bool[Tensor, "t g"]
    probability: Float[Tensor, "t g"]
    """Of wanting to reuse, given the rate and the trajectory's earlier steps."""
    draw_id: Int[Tensor, "t g"]
    """Gates that share a coin share its number."""

    def propensity(self, eligible: Bool[Tensor, "t g"]) -> Float[Tensor, "t g"]:
        """Probability of the action taken, at that moment, given all that was logged before."""
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
    """Draw the script of one trajectory; designs take turns along the trajectories.

    Args:
        schedules: what ``near-policy`` explores around.
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
    return _tossed(design, steps, num_gates, generator)


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


def _tossed(design: Design, steps: int, num_gates: int, generator: Generator) -> RandomSchedule:
    rate = RATES[int(torch.randint(len(RATES), (), generator=generator))]
    max_gap = MAX_GAPS[int(torch.randint(len(MAX_GAPS), (), generator=generator))]
    coin_of = _coin_of_gate(design, num_gates)
    coins = torch.rand(steps, int(coin_of.max()) + 1, generator=generator)
    draw_id = torch.arange(coins.numel()).view(coins.shape)
    return RandomSchedule(
        design=design,
        rate=rate,
        max_gap=max_gap,
        wants_reuse=(coins < rate)[:, coin_of],
        probability=torch.full((steps, num_gates), rate),
        draw_id=draw_id[:, coin_of],
    )


def _coin_of_gate(design: Design, num_gates: int) -> Int[Tensor, " g"]:
    gates = torch.arange(num_gates)
    if design == "independent":
        return gates
    return gates * min(BLOCKS, num_gates) // num_gates if design == "layer-blocked" else gates * 0


def parse_designs(text: str) -> tuple[Design, ...]:
    """``"paced:5,independent:1"`` to the designs, each as often as its share.

    Raises:
        ValueError: for an unknown design or a share that is no whole number above 0.
    """
    designs: list[Design] = []
    for part in text.split(","):
        name, _, share = part.strip().partition(":")
        known: list[Design] = [design for design in DESIGNS if design == name]
        if not known or (share and not share.isdigit()) or share == "0":
            raise ValueError(
                f"designs must be names with shares, such as paced:5. Got {part!r}. "
                f"Choose from {', '.join(DESIGNS)}."
            )
        designs += known * int(share or 1)
    return tuple(designs)
