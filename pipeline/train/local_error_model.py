"""Fit of the policy's network on the log squared *local* error of single gates.

Published routers learn from this label. It is a baseline here: it ignores how an error grows or
shrinks in later steps.
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
"""Gates of one optimizer step."""


def fit_local(
    spec: PolicySpec,
    gates: LocalGates,
    config: FitConfig,
    report: Callable[[int, float], None] = lambda step, loss: None,
    *,
    held_out: LocalGates | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[ReusePolicy, FitState]:
    """Fit f on single gates.

    Args:
        held_out: gates of other noise samples, by which the fit ends early.
        report: as ``checkpoint``, of :func:`pipeline.train.early_stopping.fit_with_early_stopping`.
    """
    objective = LocalErrorObjective(spec, gates, config, held_out)
    state = fit_with_early_stopping(objective, config, report, checkpoint)
    return objective.policy.eval().requires_grad_(False), state


class LocalErrorObjective(Objective):
    """Huber loss on gates drawn at random for each step."""

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
        """Gates of a step; a resumed fit repeats the draws of the steps before it."""
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
