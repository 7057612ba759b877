"""The descent of a fit: Adam on a cosine, stopped early where held-out data says so, taken up again
where it was cut off. A fit that was taken up ends at the same bits as one that was not.

What is kept is the longest descent that held-out data does not speak against, rather than the one
that it likes best: plans live on differences that a held-out loss hardly sees (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.train.checkpoint import Checkpoint, CheckpointState

ROUND = 50
"""Steps between two looks at held-out data; reports and checkpoints fall there too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """How a model is fitted."""

    steps: int = 600
    """Adam steps at most, and the length of the cosine."""
    learning_rate: float = 5e-3
    """Peak learning rate, cosine to zero."""
    weight_decay: float = 1e-3
    """Decoupled weight decay of the networks."""
    huber_delta: float = 1.0
    """Where the loss on log D^2 turns from square to linear."""
    noise_ridge: float = 0.1
    """Penalty on the squared nuisance of a noise, relative to a trajectory's loss."""
    rows_per_step: int = 2**16
    """Rows of gates that a step looks at: with no more than that, each step sees all trajectories;
    with more, batches of noises in turns."""
    patience: int = 4
    """Looks at held-out data in a row that find it predicted worse, until the descent ends."""
    seed: int = 0
    """Seed of the weights and of the batches."""

    def __post_init__(self) -> None:
        for name in ("steps", "rows_per_step", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1. Got {getattr(self, name)}. Leave it out."
                )


class Objective(nn.Module):
    """What is fitted: a module that can tell the slope of its loss."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with what the optimizer is told of them."""
        raise NotImplementedError

    def backward(self, step: int) -> float:
        """Add the gradient of a step's loss; returns the loss."""
        raise NotImplementedError

    def held_out_losses(self) -> Float[Tensor, " n"] | None:
        """Losses on data that the fit never sees, each of its own; None where there is none."""
        raise NotImplementedError


@dataclass(slots=True)
class FitState:
    """Where a descent stands, or ended."""

    step: int = 0
    """Steps taken."""
    best_losses: Float[Tensor, " n"] = field(default_factory=lambda: torch.empty(0))
    """Held-out losses where their mean was least; empty before the first look, and where nothing
    is held out."""
    kept_step: int = 0
    """The last steps after which held-out data was predicted no worse than that."""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """Weights there."""

    def look(self, objective: Objective) -> None:
        """Keep the weights unless held-out data is predicted worse than before."""
        losses = objective.held_out_losses()
        if losses is None:
            return
        if not len(self.best_losses) or losses.mean() < self.best_losses.mean():
            self.best_losses = losses
        if not is_worse(losses, self.best_losses):
            self.kept_step = self.step
            self.kept = {name: value.clone() for name, value in objective.state_dict().items()}

    def is_stale(self, patience: int) -> bool:
        """Whether held-out data has been predicted worse for long."""
        return bool(self.kept) and self.step - self.kept_step >= patience * ROUND


def is_worse(losses: Float[Tensor, " n"], best: Float[Tensor, " n"]) -> bool:
    """Whether losses are larger on the mean by more than one standard error of the difference."""
    difference = losses - best
    error = difference.std() / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    # Written so that what is not a number is worse.
    return not bool(difference.mean() <= error)


def fit_with_early_stopping(
    objective: Objective,
    config: FitConfig,
    report: Callable[[int, float], None] = lambda step, loss: None,
    checkpoint: Checkpoint | None = None,
) -> FitState:
    """Descend; the objective ends with the kept weights, or the last where nothing is held out.

    Args:
        report: called with the step and the loss every :data:`ROUND` steps.
        checkpoint: where to take up, and to leave what is done.
    """
    optimizer = torch.optim.AdamW(objective.parameter_groups(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    state = _taken_up(objective, optimizer, schedule, checkpoint)
    while state.step < config.steps and not state.is_stale(config.patience):
        optimizer.zero_grad()
        loss = objective.backward(state.step)
        optimizer.step()
        schedule.step()
        state.step += 1
        if state.step % ROUND == 0 or state.step == config.steps:
            report(state.step, loss)
            state.look(objective)
            if checkpoint is not None and checkpoint.is_due:
                checkpoint.keep(_left(state, objective, optimizer, schedule))
    if state.kept:
        objective.load_state_dict(state.kept)
    return state


def _left(state: FitState, objective: Objective, optimizer: Any, schedule: Any) -> CheckpointState:
    """All that the rest of a descent depends on."""
    tensors = {f"now.{name}": value for name, value in objective.state_dict().items()}
    tensors |= {f"kept.{name}": value for name, value in state.kept.items()}
    tensors["held_out.best_losses"] = state.best_losses
    for index, parameter in enumerate(objective.parameters()):
        for name, value in optimizer.state[parameter].items():
            tensors[f"adam.{index}.{name}"] = value
    numbers = {
        "step": state.step,
        "kept_step": state.kept_step,
        "rates": [group["lr"] for group in optimizer.param_groups],
        "schedule": schedule.state_dict(),
    }
    return CheckpointState(tensors=tensors, numbers=numbers)


def _taken_up(
    objective: Objective, optimizer: Any, schedule: Any, checkpoint: Checkpoint | None
) -> FitState:
    kept = None if checkpoint is None else checkpoint.take_up()
    if checkpoint is None or kept is None:
        return FitState()
    numbers = kept.numbers
    print(f"train: the {checkpoint.stage} fit goes on after step {numbers['step']}", flush=True)
    objective.load_state_dict(kept.part("now"))
    for index, parameter in enumerate(objective.parameters()):
        optimizer.state[parameter] = kept.part(f"adam.{index}")
    for group, rate in zip(optimizer.param_groups, numbers["rates"], strict=True):
        group["lr"] = rate
    schedule.load_state_dict(numbers["schedule"])
    return FitState(
        step=numbers["step"],
        best_losses=kept.part("held_out")["best_losses"],
        kept_step=numbers["kept_step"],
        kept=kept.part("kept"),
    )
