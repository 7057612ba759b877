"""Fit of the policy's network on the one-step (*local*) errors of single gates.

The label is the log squared relative error that a reuse makes at its own step. Published routers
learn from such labels. Here they serve as a baseline and for alternative schedules, since they
ignore how an error grows or shrinks in later steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from pipeline.train.checkpoint import Checkpoint
from pipeline.train.early_stopping import FitConfig, FitState, Objective, fit_with_early_stopping
from pipeline.train.local_error_sample import LocalGates

BATCH = 8192
"""Number of gates in the batch of one optimizer step."""


def fit_local(
    spec: PolicySpec,
    gates: LocalGates,
    config: FitConfig,
    report: Callable[[int, float], None] = lambda step, loss: None,
    *,
    held_out: LocalGates | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[ReusePolicy, FitState]:
    """Fit an ensemble of networks on single gates.

    Args:
        spec: specification of the policy, with its features and number of members.
        gates: gates with their one-step errors.
        config: settings of the optimizer.
        report: see :func:`pipeline.train.early_stopping.fit_with_early_stopping`.
        held_out: gates of other noise samples for early stopping; None takes all steps.
        checkpoint: see :func:`pipeline.train.early_stopping.fit_with_early_stopping`.
    """
    objective = LocalErrorObjective(spec, gates, config, held_out)
    state = fit_with_early_stopping(objective, config, report, checkpoint)
    return objective.policy.eval().requires_grad_(False), state


class LocalErrorObjective(Objective):
    """Huber loss on a random batch of gates for each optimizer step."""

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
        """Draw the batch of a step; a resumed fit first repeats the draws of all earlier steps."""
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
