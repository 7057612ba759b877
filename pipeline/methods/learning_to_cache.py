"""Learning-to-Cache (Ma et al. 2024, arXiv 2406.01733): gates that compute, learned by gradient.

As in the paper all sites compute at every second step. At the steps between, each gate (one site of
one layer) shows a mixture of its computed and its cached value, and the computed share is learned:
one number for each gate and step, the same for all samples. The loss is the squared error of the
model's output at the step plus a penalty on the computed share. The *router* is the set of learned
shares; a gate reuses where its share is below one half.

Differences from the paper:

- Routers are learned from the latents of sampling runs of the stock (unpatched) model. The authors
  add noise to images of the training set, and take one step.
- The error is that of the guided output without learned variances, relative to the output's size.
- A gate computes if its share is at least one half (0.1 in the authors' scripts). The optimal share
  of a single gate is one half where the error of its reuse equals its penalty.
- Periods of 3 and 4 steps are learned too. There the cached value of a gate is the mixture that the
  gate showed one step before.
- Routers for several penalties are learned at once, as rows of a batch.
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
"""Combines the guidance branches of a stacked batch into the output that the sampler uses."""
PERIODS = (2, 3, 4)
"""Steps from one at which all sites compute to the next. At most half is reused with the paper's
period of 2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Routers:
    """Learned routers, one for each penalty."""

    share: Float[Tensor, "p t g"]
    """Computed share in [0, 1] by penalty, step and gate; 1 at steps where all sites compute."""

    def __post_init__(self) -> None:
        if not self.share.isfinite().all():
            raise ValueError(
                "The computed shares that method router learns must be finite. Got NaN or "
                "infinity: the optimization diverged. Pass --dtype fp32, or leave router out of "
                "--methods."
            )

    def encode(self) -> tuple[Stored, Arrays]:
        """Return the result as JSON values and arrays."""
        return {}, {"share": self.share.numpy()}


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterTask:
    """Calibration task that learns routers on runs of the stock model from calibration noise."""

    period: int = 2
    """Steps from one at which all sites compute to the next; 2 in the paper."""
    num_samples: int = 16
    """Runs of the stock model to learn from; each update uses one of them."""
    at_once: int = 4
    """Runs of the stock model that are sampled in one batch."""
    epochs: int = 48
    """Optimizer updates; each update reaches every gate of every step."""
    learning_rate: float = 0.15
    """Learning rate of Adam, for the logits of the shares."""
    penalties: tuple[float, ...] = tuple(10.0 ** (-5.0 + 0.5 * power) for power in range(10))
    """Weights of the mean computed share in the loss, in units of squared relative error; a router
    is learned for each weight."""

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
        """Return the noise sample indices of each batch of runs."""
        return batches_of(self.num_samples, self.at_once)

    @property
    def name(self) -> str:
        """Name by the period, the only field in which the tasks of one evaluation differ."""
        return f"period={self.period}"

    @property
    def trajectories(self) -> int:
        """Runs of the stock model, plus one pass through all steps for each update and penalty."""
        return self.num_samples + self.epochs * len(self.penalties)

    @property
    def references(self) -> frozenset[int]:
        """No reference samples: the runs of the stock model are counted as trajectories."""
        return frozenset()

    def run(self, sampler: ModelSampler) -> Routers:
        """Record runs of the stock model, then learn routers with sites that show mixtures."""
        transformer, config = sampler.model.transformer, sampler.config
        runs = [run for ids in self.batches() for run in record_stock_runs(sampler, ids)]
        guide = sampler.sampler(transformer, config.steps).guided
        with patch_with_mixing(transformer, config.sites, config.cached) as mixer:
            return learn_routers(transformer, mixer, runs, self, guide)

    def decode(self, stored: Stored, arrays: Arrays) -> Routers:
        """Rebuild a result from its encoded form."""
        return Routers(share=torch.from_numpy(arrays["share"]))


class Router(Method):
    """Learning-to-Cache with each period of :data:`PERIODS` and each penalty."""

    name = "router"

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        tasks = router_tasks(budget.trajectories(session.steps))
        found = session.calibrate(tasks)
        self._learned = [(task, found[task.name]) for task in tasks]
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        return router_points(self._learned)


def router_tasks(trajectories: int | None = None) -> list[RouterTask]:
    """Return a task for each period of :data:`PERIODS`.

    Args:
        trajectories: most trajectories of all tasks together; each then has as many penalties as it
            can afford, spread evenly and at least one. None for no limit.
    """
    full = RouterTask()
    if trajectories is None:
        return [RouterTask(period=period) for period in PERIODS]
    share = trajectories // len(PERIODS) - full.num_samples
    count = min(len(full.penalties), max(1, share // full.epochs))
    some = (index * len(full.penalties) // count for index in range(count))
    penalties = tuple(full.penalties[index] for index in some)
    return [RouterTask(period=period, penalties=penalties) for period in PERIODS]


def router_points(learned: list[tuple[RouterTask, Routers]]) -> list[OperatingPoint]:
    """Return an operating point for each period and penalty.

    A gate reuses where its learned share is below one half. Routers that never reuse are left out,
    and of routers with equal decisions all but the first.
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
    """Learn the computed shares of all gates; the weights of the model do not change.

    Args:
        runs: runs of the stock model, one sample each.

    Raises:
        ValueError: if the learned shares are not finite.
    """
    times, num_gates = len(task.penalties), _count_gates(transformer, mixer, runs[0])
    # A logit of 0 is a computed share of one half.
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
    # The factor keeps half-precision gradients from underflow; Adam is invariant to it.
    return wanted.shape[1] * (error + penalties * share.mean(dim=1)).sum()
