"""A fit on the log squared *local* error of single gates: the label that published routers learn
from. It is here to be compared with; it ignores what becomes of an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from pipeline.train.checkpoint import Checkpoint
from pipeline.train.early_stopping import FitConfig, FitState, Objective, fit_with_early_stopping

BATCH = 8192
"""Gates of a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalGates:
    """Single gates and what they cost at their own step."""

    features: Float[Tensor, "gates f"]
    """Unscaled."""
    log_error: Float[Tensor, " gates"]
    """Log squared relative L2 distance of the cached from the fresh output."""


def fit_local(
    spec: PolicySpec,
    gates: LocalGates,
    config: FitConfig,
    report: Callable[[int, float], None] = lambda step, loss: None,
    *,
    held_out: LocalGates | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[ReusePolicy, FitState]:
    """Fit f on single gates; the arguments are those of
    :func:`pipeline.train.damage_model.fit_damage`."""
    objective = _Local(spec, gates, config, held_out)
    descended = fit_with_early_stopping(objective, config, report, checkpoint)
    return objective.policy.eval().requires_grad_(False), descended


class _Local(Objective):
    """The loss on gates drawn at random for each step."""

    def __init__(
        self, spec: PolicySpec, gates: LocalGates, config: FitConfig, held_out: LocalGates | None
    ) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        self.policy = ReusePolicy(spec)
        self.gates, self.held_out = gates, held_out
        self.generator, self.drawn = Generator().manual_seed(config.seed), 0

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": self.policy.parameters()}]

    def backward(self, step: int) -> float:
        loss = self._loss(self.gates, self._draw(step))
        loss.backward()
        return loss.item()

    def _draw(self, step: int) -> Tensor:
        """The gates of a step, the draws of all steps before it passed over."""
        batch = torch.empty(0)
        while self.drawn <= step:
            batch = torch.randint(len(self.gates.features), (BATCH,), generator=self.generator)
            self.drawn += 1
        return batch

    def _loss(self, gates: LocalGates, rows: Any) -> Float[Tensor, ""]:
        predicted = self.policy.by_member(gates.features[rows])
        return F.huber_loss(predicted, gates.log_error[rows].expand_as(predicted))

    @torch.no_grad()
    def held_out_losses(self) -> Float[Tensor, " gates"] | None:
        if self.held_out is None:
            return None
        predicted = self.policy.by_member(self.held_out.features)
        target = self.held_out.log_error.expand_as(predicted)
        return F.huber_loss(predicted, target, reduction="none").mean(dim=0)
