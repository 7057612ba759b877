"""Reuse across guidance branches: the unconditional rows take the conditional rows' value.

After DiTFastAttn (Yuan et al. 2024), which shares attention between the branches where they
agree; there the plan is fixed beforehand, here it follows what was last measured.
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
"""Where a branch is not shared: it reuses already, or nothing may be approximated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchSharing:
    """Which samples that compute may compute their conditional row alone. Pure."""

    threshold: float
    """Largest relative L2 distance between the branches when both were last computed."""
    max_age: int
    """Most steps since then."""

    @classmethod
    def of(cls, config: DQARConfig, *, exposure: bool) -> BranchSharing | None:
        """What a configuration asks for; None where branches are not shared.

        Raises:
            ValueError: in exposure, which must compute both branches.
        """
        threshold = config.cross_branch_threshold
        if threshold is None or not config.enabled:
            return None
        if exposure:
            raise ValueError(
                "Exposure must compute both branches. Got cross_branch_threshold="
                f"{threshold}. Pass None."
            )
        return cls(threshold=threshold, max_age=config.max_gap)

    def decide(self, inputs: GateInputs, decision: GateDecision) -> GateDecision:
        """``SHARED`` in place of a refusal, where the branches were close not long ago."""
        # A distance never measured is NaN, which no comparison passes.
        is_close = inputs.branch_gap <= self.threshold
        is_open = torch.ones_like(is_close)
        for reason in OVERRULED:
            is_open &= decision.reason != reason
        shared = is_close & is_open & (inputs.branch_age <= self.max_age)
        return GateDecision(reason=torch.where(shared, int(DecisionReason.SHARED), decision.reason))


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchRows:
    """Where the branches of a stacked batch lie."""

    branches: tuple[str, ...]
    """Their order in the batch, such as ``("cond", "uncond")``."""
    num_samples: int

    @property
    def has_both(self) -> bool:
        """Whether there is anything to share."""
        return set(self.branches) == {CONDITIONAL, UNCONDITIONAL}

    def of(self, branch: str, samples: Int[Tensor, " s"]) -> Int[Tensor, " s"]:
        """Rows of a branch."""
        return self.branches.index(branch) * self.num_samples + samples

    def donors(self, rows: Int[Tensor, " r"], shared: Bool[Tensor, " b"]) -> Int[Tensor, " r"]:
        """For each row the row that is computed for it: of a shared sample the conditional."""
        samples = rows % self.num_samples
        return torch.where(shared[samples], self.of(CONDITIONAL, samples), rows)

    def distance(self, parts: Parts) -> Float[Tensor, " s"]:
        """Relative L2 distance of the unconditional from the conditional rows, by sample.

        Args:
            parts: values of all branches of some samples, branch-major.
        """
        split = {name: part.unflatten(0, (len(self.branches), -1)) for name, part in parts.items()}
        uncond, cond = (
            {name: part[self.branches.index(branch)] for name, part in split.items()}
            for branch in (UNCONDITIONAL, CONDITIONAL)
        )
        return parts_error(uncond, cond)
