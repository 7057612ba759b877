"""Learning-to-Cache (Ma et al. 2024, arXiv 2406.01733): which gates compute, learned by gradient.

As in the paper all sites compute at every second step. Between these, each gate shows a mixture of
its computed and its cached value, and the computed share is learned: one number for each gate and
step, the same for all samples. The loss is the squared error of the model's output at the step plus
a penalty on the computed share.

Differences from the paper:

- Routers are learned from latents of stock runs. The authors noise images of the training set, and
  take one step.
- The error is that of the guided output without learned variances, relative to its size.
- A gate computes from a share of one half on (the authors' scripts say 0.1), which is where a lone
  gate's error is worth its penalty.
- Longer periods are learned too; a cache then carries the mixture on.
- Several penalties are learned side by side, as rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqar.gates.rules import MaskGate
from pipeline.methods.base import (
    CalibrationBudget,
    CalibrationCost,
    Method,
    OperatingPoint,
    Session,
)
from pipeline.methods.site_mixing import Mixer, patch_with_mixing
from pipeline.methods.stock_runs import StockStep, record_stock_runs
from pipeline.methods.task import Arrays, ModelSampler, Stored
from pipeline.models.noise import batches_of

Guide = Callable[[Tensor], Tensor]
"""Combines the guidance branches of a stacked batch to the output that the sampler uses."""
PERIODS = (2, 3, 4)
"""Periods of the steps at which all sites compute. Of 2, the paper's, at most half is reused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Routers:
    """Routers of several penalties."""

    share: Float[Tensor, "p t g"]
    """Computed share of each gate, by penalty; 1 where all sites compute."""

    def __post_init__(self) -> None:
        if not self.share.isfinite().all():
            raise ValueError(
                "The computed shares that method router learns must be finite. Got NaN or "
                "infinity: the optimization diverged. Pass --dtype fp32, or leave router out of "
                "--methods."
            )

    def encode(self) -> tuple[Stored, Arrays]:
        """The result as JSON values and arrays."""
        return {}, {"share": self.share.numpy()}


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterTask:
    """Learn routers on stock runs from calibration noise samples."""

    period: int = 2
    """Steps from one at which all sites compute to the next. The paper's is 2."""
    num_samples: int = 16
    """Stock runs to learn from; each update takes one."""
    at_once: int = 4
    """Stock runs side by side."""
    epochs: int = 48
    """Updates of each gate of each step."""
    learning_rate: float = 0.15
    """Learning rate of Adam, in logits."""
    penalties: tuple[float, ...] = tuple(10.0 ** (-5.0 + 0.5 * power) for power in range(10))
    """Squared relative errors that computing all gates of a step is worth, learned side by side."""

    def __post_init__(self) -> None:
        for name, least in (("period", 2), ("num_samples", 1), ("at_once", 1), ("epochs", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be at least {least}. Got {value}. Pass {least}.")
        if not self.penalties or not all(0 <= one < math.inf for one in self.penalties):
            raise ValueError(
                f"penalties must be finite, none below 0. Got {self.penalties}. Pass (1e-4,)."
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"learning_rate must be a positive number. Got {self.learning_rate}. Pass 0.15."
            )

    def batches(self) -> list[range]:
        """Noise samples of each batch of stock runs."""
        return batches_of(self.num_samples, self.at_once)

    @property
    def name(self) -> str:
        """The period: tasks of one evaluation differ by it alone."""
        return f"period={self.period}"

    @property
    def trajectories(self) -> int:
        """Stock runs, and a pass through all steps for each update of each penalty's routers."""
        return self.num_samples + self.epochs * len(self.penalties)

    def run(self, sampler: ModelSampler) -> Routers:
        """Record stock runs, then learn from them with mixing sites."""
        transformer, config = sampler.model.transformer, sampler.config
        runs = [run for ids in self.batches() for run in record_stock_runs(sampler, ids)]
        guide = sampler.sampler(transformer, config.steps).guided
        with patch_with_mixing(transformer, config.sites, config.cached) as mixer:
            return learn_routers(transformer, mixer, runs, self, guide)

    def decode(self, stored: Stored, arrays: Arrays) -> Routers:
        """The result from its encoded form."""
        return Routers(share=torch.from_numpy(arrays["share"]))


class Router(Method):
    """Routers of every period and penalty."""

    name = "router"

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        tasks = router_tasks()
        found = session.calibrate(tasks)
        self._learned = [(task, found[task.name]) for task in tasks]
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        return router_points(self._learned)


def router_tasks() -> list[RouterTask]:
    """Routers of every period."""
    return [RouterTask(period=period) for period in PERIODS]


def router_points(learned: list[tuple[RouterTask, Routers]]) -> list[OperatingPoint]:
    """A point for each penalty of each period that reuses and that no earlier one equals.

    A gate computes where its learned share is a half or more.
    """
    found: dict[bytes, OperatingPoint] = {}
    for task, routers in learned:
        for penalty, share in zip(task.penalties, routers.share, strict=True):
            reuse = share < 0.5
            if reuse.any():
                key = reuse.numpy().tobytes()
                found.setdefault(key, _point(task.period, penalty, reuse))
    return list(found.values())


def _point(period: int, penalty: float, reuse: Bool[Tensor, "t g"]) -> OperatingPoint:
    return OperatingPoint(
        method=Router.name,
        operating_point=f"period={period},penalty={penalty:.3g}",
        steps=len(reuse),
        gate=MaskGate(reuse[:, :, None]),
    )


def learn_routers(
    transformer: Any, mixer: Mixer, runs: list[list[StockStep]], task: RouterTask, guide: Guide
) -> Routers:
    """Learn the computed shares of all gates; the model's weights stay as they are.

    Args:
        runs: stock runs of one sample each.

    Raises:
        ValueError: if the learned shares are not finite.
    """
    times, num_gates = len(task.penalties), _count_gates(transformer, mixer, runs[0])
    # Logits of 0 are computed shares of a half.
    logits = torch.zeros(times, len(runs[0]), num_gates, device=runs[0][0].latents.device)
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=task.learning_rate)
    for epoch in range(task.epochs):
        optimizer.zero_grad()
        steps = [step.repeated(times) for step in runs[epoch % len(runs)]]
        _differentiate(transformer, mixer, steps, logits, task, guide)
        optimizer.step()
    share = logits.detach().sigmoid().cpu()
    share[:, :: task.period] = 1.0
    return Routers(share=share)


def _differentiate(
    transformer: Any,
    mixer: Mixer,
    steps: list[StockStep],
    logits: Float[Tensor, "p t g"],
    task: RouterTask,
    guide: Guide,
) -> None:
    for index, rows in enumerate(steps):
        if index % task.period == 0:
            _compute(transformer, mixer, rows)
        else:
            _loss(transformer, mixer, rows, logits[:, index].sigmoid(), task, guide).backward()


def _count_gates(transformer: Any, mixer: Mixer, steps: list[StockStep]) -> int:
    _compute(transformer, mixer, steps[0])
    return 1 + max(gate for gate, _ in mixer.cached)


@torch.no_grad()
def _compute(transformer: Any, mixer: Mixer, rows: StockStep) -> None:
    mixer.share = None
    transformer(rows.latents, timestep=rows.timesteps, class_labels=rows.labels)


def _loss(
    transformer: Any,
    mixer: Mixer,
    rows: StockStep,
    share: Float[Tensor, "p g"],
    task: RouterTask,
    guide: Guide,
) -> Float[Tensor, ""]:
    mixer.share = share.repeat(len(rows.latents) // len(share), 1)
    output = transformer(rows.latents, timestep=rows.timesteps, class_labels=rows.labels).sample
    wanted = guide(rows.output).float().flatten(1)
    missed = guide(output).float().flatten(1) - wanted
    error = missed.square().sum(dim=1) / wanted.square().sum(dim=1)
    penalties = torch.tensor(task.penalties, device=share.device)
    # Adam does not mind the factor; gradients in half precision would vanish without it.
    return wanted.shape[1] * (error + penalties * share.mean(dim=1)).sum()
