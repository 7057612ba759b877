"""Routers after Learning-to-Cache (Ma et al. 2024, arXiv 2406.01733): which gates compute, learned
by gradient from what the model puts out at the step itself.

As in the paper all sites compute at every second step; between, each gate shows a mixture of what
it computes and what is cached, and the share that it computes is learned, one number a gate and
step, for every sample alike: squared error of the model's output, plus a penalty on what is
computed. Other than there, what is learned from are latents of stock runs (the authors noise images
of the training set, and take one step); the error is of the guided output without learned
variances, relative to its size; a gate computes from a share of a half on (the authors' scripts say
0.1), which is where a lone gate's error is worth its penalty; longer periods are learned too (a
cache then carries the mixture on); several penalties are learned side by side, as rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dqar.gates.rules import MaskGate
from pipeline.methods.base import OperatingPoint
from pipeline.methods.site_mixing import Mixer
from pipeline.models.noise import batches_of

Guide = Callable[[Tensor], Tensor]
"""Combines the branches of a stacked batch to what the sampler sees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterProbe:
    """Calibration: learn routers on stock runs of some calibration noise."""

    period: int = 2
    """Steps from one at which all sites compute to the next. The paper's is 2."""
    num_samples: int = 16
    """Stock runs that are learned from, a sample an update."""
    at_once: int = 4
    """Stock runs side by side."""
    epochs: int = 48
    """Updates of each gate of each step."""
    learning_rate: float = 0.15
    """Of Adam, in logits."""
    penalties: tuple[float, ...] = tuple(10.0 ** (-5.0 + 0.5 * power) for power in range(10))
    """Squared relative error that computing all gates of a step is worth, learned side by side."""

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
        """The noises of each stock run."""
        return batches_of(self.num_samples, self.at_once)


@dataclass(frozen=True, kw_only=True, slots=True)
class Routers:
    """What was learned."""

    share: Float[Tensor, "p t g"]
    """Computed share of each gate, by penalty; 1 where all sites compute."""

    def __post_init__(self) -> None:
        if not self.share.isfinite().all():
            raise ValueError(
                "share must be finite. Got routers that diverged. Pass --dtype fp32, or leave "
                "router out of --methods."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StockStep:
    """A step of some stock runs, branches stacked."""

    latents: Float[Tensor, "r c h w"]
    timesteps: Tensor
    labels: Tensor
    output: Float[Tensor, "r k h w"]

    def of_sample(self, sample: int, num_samples: int) -> StockStep:
        """The rows of one sample."""
        return self._with(lambda rows: rows[sample::num_samples])

    def repeated(self, times: int) -> StockStep:
        """Each row so many times over."""
        return self._with(lambda rows: rows.repeat_interleave(times, dim=0))

    def _with(self, change: Callable[[Tensor], Tensor]) -> StockStep:
        return StockStep(
            latents=change(self.latents),
            timesteps=change(self.timesteps),
            labels=change(self.labels),
            output=change(self.output),
        )


def by_sample(steps: list[StockStep], num_samples: int) -> list[list[StockStep]]:
    """Stock runs side by side, each alone."""
    return [[step.of_sample(one, num_samples) for step in steps] for one in range(num_samples)]


@contextmanager
def record_calls(transformer: nn.Module) -> Iterator[list[StockStep]]:
    """What a transformer is given and answers, step by step, while a sampler calls it."""
    steps: list[StockStep] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        step = StockStep(
            latents=args[0],
            timesteps=kwargs["timestep"],
            labels=kwargs["class_labels"],
            output=output.sample,
        )
        steps.append(step)

    handle = transformer.register_forward_hook(note, with_kwargs=True)
    try:
        yield steps
    finally:
        handle.remove()


def learn_routers(
    transformer: Any, mixer: Mixer, runs: list[list[StockStep]], probe: RouterProbe, guide: Guide
) -> Routers:
    """Learn the computed shares of all gates; the model's weights stay as they are.

    Args:
        runs: stock runs of one sample each.

    Raises:
        ValueError: if what is learned is not finite.
    """
    times, num_gates = len(probe.penalties), _count_gates(transformer, mixer, runs[0])
    # Zeros compute a half: nothing is decided yet.
    logits = torch.zeros(times, len(runs[0]), num_gates, device=runs[0][0].latents.device)
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=probe.learning_rate)
    for epoch in range(probe.epochs):
        optimizer.zero_grad()
        steps = [step.repeated(times) for step in runs[epoch % len(runs)]]
        _differentiate(transformer, mixer, steps, logits, probe, guide)
        optimizer.step()
    share = logits.detach().sigmoid().cpu()
    share[:, :: probe.period] = 1.0
    return Routers(share=share)


def _differentiate(
    transformer: Any,
    mixer: Mixer,
    steps: list[StockStep],
    logits: Float[Tensor, "p t g"],
    probe: RouterProbe,
    guide: Guide,
) -> None:
    for index, rows in enumerate(steps):
        if index % probe.period == 0:
            _compute(transformer, mixer, rows)
        else:
            _loss(transformer, mixer, rows, logits[:, index].sigmoid(), probe, guide).backward()


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
    probe: RouterProbe,
    guide: Guide,
) -> Float[Tensor, ""]:
    mixer.share = share.repeat(len(rows.latents) // len(share), 1)
    output = transformer(rows.latents, timestep=rows.timesteps, class_labels=rows.labels).sample
    wanted = guide(rows.output).float().flatten(1)
    missed = guide(output).float().flatten(1) - wanted
    error = missed.square().sum(dim=1) / wanted.square().sum(dim=1)
    penalties = torch.tensor(probe.penalties, device=share.device)
    # Adam does not mind the factor; gradients in half precision would vanish without it.
    return wanted.shape[1] * (error + penalties * share.mean(dim=1)).sum()


PERIODS = (2, 3, 4)
"""Of the steps at which all sites compute. The paper's 2 reuses no more than half of the gates."""


def router_probes() -> list[RouterProbe]:
    """Routers of every period."""
    return [RouterProbe(period=period) for period in PERIODS]


def router_points(learned: list[tuple[RouterProbe, Routers]]) -> list[OperatingPoint]:
    """A point for each penalty of each period, computing what its router computes by half or more;
    of those that compute the same, the first."""
    found: dict[bytes, OperatingPoint] = {}
    for probe, routers in learned:
        for penalty, share in zip(probe.penalties, routers.share, strict=True):
            reuse = share < 0.5
            if reuse.any():
                key = reuse.numpy().tobytes()
                found.setdefault(key, _point(probe.period, penalty, reuse))
    return list(found.values())


def _point(period: int, penalty: float, reuse: Bool[Tensor, "t g"]) -> OperatingPoint:
    return OperatingPoint(
        method="router",
        operating_point=f"period={period},penalty={penalty:.3g}",
        steps=len(reuse),
        gate=MaskGate(reuse[:, :, None]),
    )
