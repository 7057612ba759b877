"""Sharing between guidance branches: the unconditional rows take the conditional rows' value.

DiTFastAttn (Yuan et al. 2024, arXiv 2406.08552) shares attention between the branches by a plan
made before sampling. Here the decision at each step follows from the last measured distance
between the branches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dqar.cache.site_tensors import Parts, parts_error
from dqar.config import DQARConfig
from dqar.records import DecisionReason, GateDecision, GateInputs

CONDITIONAL, UNCONDITIONAL = "cond", "uncond"
OVERRULED = (
    DecisionReason.REUSE,
    DecisionReason.COLD,
    DecisionReason.WARMUP,
    DecisionReason.COOLDOWN,
    DecisionReason.CLOSED,
)
"""Decisions that sharing does not replace: the sample reuses, or must not be approximated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchSharing:
    """The rule by which a computing sample computes only its conditional row. Pure."""

    threshold: float
    """Largest relative L2 distance between the branches, as last measured, that allows sharing."""
    max_age: int
    """Largest age of that measurement, in steps, that allows sharing."""

    @classmethod
    def of(cls, config: DQARConfig, *, exposure: bool) -> BranchSharing | None:
        """Make the rule of a configuration; None if the configuration shares no branches.

        Raises:
            ValueError: in exposure, which must compute both branches.
        """
        threshold = config.cross_branch_threshold
        if threshold is None or not config.enabled:
            return None
        if exposure:
            raise ValueError(
                "Exposure must compute both branches. Got cross_branch_threshold="
                f"{threshold}. Pass cross_branch_threshold=None."
            )
        return cls(threshold=threshold, max_age=config.max_gap)

    def decide(self, inputs: GateInputs, decision: GateDecision) -> GateDecision:
        """Replace a refusal by ``SHARED`` where the last measured distance between the branches is
        within the threshold and recent enough."""
        # A distance that was never measured is NaN, for which the comparison is false.
        is_close = inputs.branch_gap <= self.threshold
        is_open = torch.ones_like(is_close)
        for reason in OVERRULED:
            is_open &= decision.reason != reason
        shared = is_close & is_open & (inputs.branch_age <= self.max_age)
        return GateDecision(reason=torch.where(shared, int(DecisionReason.SHARED), decision.reason))


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchRows:
    """The rows of the guidance branches in a stacked batch."""

    branches: tuple[str, ...]
    """Guidance branches in the order of the batch, such as ``("cond", "uncond")``."""
    num_samples: int
    """Samples in the batch, each with one row per branch."""

    @property
    def has_both(self) -> bool:
        """True if the batch holds the conditional and the unconditional branch."""
        return set(self.branches) == {CONDITIONAL, UNCONDITIONAL}

    def of(self, branch: str, samples: Int[Tensor, " s"]) -> Int[Tensor, " s"]:
        """Rows of some samples in one branch."""
        return self.branches.index(branch) * self.num_samples + samples

    def donors(self, rows: Int[Tensor, " r"], shared: Bool[Tensor, " b"]) -> Int[Tensor, " r"]:
        """Return, for each row, the row whose computed value it takes: the conditional row of its
        sample if the sample shares, else the row itself."""
        samples = rows % self.num_samples
        return torch.where(shared[samples], self.of(CONDITIONAL, samples), rows)

    def distance(self, parts: Parts) -> Float[Tensor, " s"]:
        """Relative L2 distance of the unconditional to the conditional rows, by sample.

        Args:
            parts: values of both branches of some samples, branch-major.
        """
        split = {name: part.unflatten(0, (len(self.branches), -1)) for name, part in parts.items()}
        uncond, cond = (
            {name: part[self.branches.index(branch)] for name, part in split.items()}
            for branch in (UNCONDITIONAL, CONDITIONAL)
        )
        return parts_error(uncond, cond)
