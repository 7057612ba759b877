"""Routers after Learning-to-Cache (Ma et al. 2024, arXiv 2406.01733): which gates compute, learned
by gradient from what the model puts out at the step itself.

As in the paper all sites compute at every second step; between, each gate shows a mixture of what
it computes and what is cached, and the share that it computes is learned, one number a gate and
step, for every sample alike: least squared error of the model's output on latents of stock runs,
plus a penalty on what is computed. Other than there, the output is the guided one, relative to its
size; longer periods are learned too (a cache then carries the mixture on); several penalties are
learned side by side, each by rows of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dqar.config import CachedParts
from pipeline.bound import skipped_modules

Guide = Callable[[Tensor], Tensor]
"""Combines the branches of a stacked batch to what the sampler sees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterProbe:
    """Calibration: learn routers on stock runs of some calibration noise."""

    name: str = "router"
    period: int = 2
    """All sites compute at every so manyeth step. The paper's is 2."""
    num_samples: int = 16
    """Stock runs that are learned from, a sample an update."""
    epochs: int = 48
    """Updates of each gate of each step."""
    learning_rate: float = 0.15
    """Of Adam, in logits."""
    penalties: tuple[float, ...] = tuple(10.0 ** (-5.0 + 0.5 * power) for power in range(8))
    """Squared relative error that computing all gates of a step is worth, learned side by side."""

    def __post_init__(self) -> None:
        for name, least in (("period", 2), ("num_samples", 1), ("epochs", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be at least {least}. Got {value}. Pass {least}.")
        if not self.penalties or min(self.penalties) < 0:
            raise ValueError(
                f"penalties must be one or more, and not below 0. Got {self.penalties}. Pass 1e-4."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Routers:
    """What was learned."""

    share: Float[Tensor, "p t g"]
    """Computed share of each gate, by penalty; 1 where all sites compute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StockStep:
    """A step of stock runs, branches stacked."""

    latents: Float[Tensor, "r c h w"]
    timesteps: Tensor
    labels: Tensor
    output: Float[Tensor, "r k h w"]

    def of_sample(self, sample: int, num_samples: int, times: int) -> StockStep:
        """The rows of one sample, each so many times over."""
        rows = range(sample, len(self.latents), num_samples)
        picked = torch.tensor(rows).repeat_interleave(times).to(self.latents.device)
        return StockStep(
            latents=self.latents[picked],
            timesteps=self.timesteps[picked],
            labels=self.labels[picked],
            output=self.output[picked],
        )


@contextmanager
def recorded(transformer: nn.Module) -> Iterator[list[StockStep]]:
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


class Mixer:
    """Sites that put out what is cached as far as they do not compute, and cache what they put out.

    ``share`` is the computed share by row and gate; None computes everything.
    """

    def __init__(self) -> None:
        self.share: Float[Tensor, "r g"] | None = None
        self.cached: dict[tuple[int, int], Tensor] = {}

    def mixed(self, gate: int, part: int, fresh: Float[Tensor, "r n d"]) -> Float[Tensor, "r n d"]:
        """What a module of a gate puts out in place of what it computed."""
        shown = fresh
        if self.share is not None:
            share = self.share[:, gate, None, None].to(fresh.dtype)
            shown = share * fresh + (1 - share) * self.cached[gate, part]
        # What a step is blamed for is its own mixture, not that of the steps before.
        self.cached[gate, part] = shown.detach()
        return shown


@contextmanager
def mixing(
    transformer: Any, sites: tuple[str, ...], cached: CachedParts = "output"
) -> Iterator[Mixer]:
    """Let a mixer stand behind the sites of a model; gates are numbered by site, then layer."""
    mixer, blocks = Mixer(), transformer.transformer_blocks
    handles = [
        module.register_forward_hook(
            _hook(mixer, index * len(blocks) + layer, part, site), with_kwargs=True
        )
        for layer, block in enumerate(blocks)
        for index, site in enumerate(sites)
        for part, module in enumerate(skipped_modules(block, site, cached))
    ]
    try:
        yield mixer
    finally:
        for handle in handles:
            handle.remove()


def _hook(mixer: Mixer, gate: int, part: int, site: str) -> Callable[..., Tensor]:
    def show(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        if site != "block":
            return mixer.mixed(gate, part, output)
        # A block caches what it adds to its hidden states.
        hidden = args[0] if args else kwargs["hidden_states"]
        return hidden + mixer.mixed(gate, part, output - hidden)

    return show


def learn_routers(
    transformer: Any, mixer: Mixer, steps: list[StockStep], probe: RouterProbe, guide: Guide
) -> Routers:
    """Learn the computed shares of all gates; the model's weights stay as they are.

    Args:
        steps: stock runs of ``probe.num_samples`` samples, recorded.
    """
    logits = torch.zeros(len(probe.penalties), len(steps), _count_gates(transformer, mixer, steps))
    # Zeros compute a half: nothing is decided yet.
    logits = logits.to(steps[0].latents.device).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=probe.learning_rate)
    for epoch in range(probe.epochs):
        optimizer.zero_grad()
        sample, times = epoch % probe.num_samples, len(probe.penalties)
        rows = [step.of_sample(sample, probe.num_samples, times) for step in steps]
        _differentiate(transformer, mixer, rows, logits, probe, guide)
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
