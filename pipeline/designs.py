"""Exploration designs: which gates of a trajectory want to reuse, drawn before it runs.

Coins are drawn up front from the trajectory's own key, so the decisions depend on nothing that a
worker, a batch or an attempt could change. A gate with nothing cached, or with something too stale,
computes whatever its coin says; its propensity is then 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.noise import generator_for

Design = Literal["independent", "step-synchronised"]
"""``independent``: a coin a gate. ``step-synchronised``: one coin for all gates of a step."""

DESIGNS: tuple[Design, ...] = get_args(Design)
DEFAULT_DESIGNS: tuple[Design, ...] = (DESIGNS[0],) * 5 + (DESIGNS[1],)
"""Independent coins identify single gates; some synchronised steps show how gates interact."""
RATES = (0.35, 0.55, 0.75, 0.9)
"""Reuse rates that trajectories are drawn from, evenly."""
MAX_GAPS = (1, 2, 3, 4, 6)
"""Gap limits that trajectories are drawn from, evenly. Without a limit the gaps are geometric,
their rare long ones make up most of the damage, and the cheap ones that a good policy is made of
cannot be told apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exploration:
    """One trajectory's script. Example: rate 0.5, so every propensity of a live gate is 0.5."""

    design: Design
    rate: float
    """Probability that a gate wants to reuse."""
    max_gap: int
    """Staleness beyond which every gate of the trajectory computes."""
    wants_reuse: Bool[Tensor, "t g"]
    draw_id: Int[Tensor, "t g"]
    """Gates that share a coin share its number."""

    def propensity(self, eligible: Bool[Tensor, "t g"]) -> Tensor:
        """Probability of the action taken, at that moment, given all that was logged before."""
        of_action = torch.where(self.wants_reuse, self.rate, 1.0 - self.rate)
        return torch.where(eligible, of_action, 1.0)


def explore(
    designs: tuple[Design, ...], seed: int, trajectory: int, steps: int, num_gates: int
) -> Exploration:
    """Draw the script of one trajectory; designs take turns along the trajectories."""
    design = designs[trajectory % len(designs)]
    generator = generator_for("explore", seed, trajectory)
    rate = RATES[int(torch.randint(len(RATES), (), generator=generator))]
    max_gap = MAX_GAPS[int(torch.randint(len(MAX_GAPS), (), generator=generator))]
    is_shared = design == "step-synchronised"
    coins = torch.rand(steps, 1 if is_shared else num_gates, generator=generator)
    draw_id = torch.arange(coins.numel()).view(coins.shape)
    return Exploration(
        design=design,
        rate=rate,
        max_gap=max_gap,
        wants_reuse=(coins < rate).expand(steps, num_gates),
        draw_id=draw_id.expand(steps, num_gates),
    )


def parse_designs(text: str) -> tuple[Design, ...]:
    """``"independent:5,step-synchronised:1"`` to the designs, each as often as its share.

    Raises:
        ValueError: for an unknown design or a share that is no whole number above 0.
    """
    designs: list[Design] = []
    for part in text.split(","):
        name, _, share = part.strip().partition(":")
        known: list[Design] = [design for design in DESIGNS if design == name]
        if not known or (share and not share.isdigit()) or share == "0":
            raise ValueError(
                f"designs must be names with shares, such as {DESIGNS[0]}:5. Got {part!r}. "
                f"Choose from {', '.join(DESIGNS)}."
            )
        designs += known * int(share or 1)
    return tuple(designs)
