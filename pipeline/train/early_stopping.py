"""AdamW with a cosine learning rate, early stopping on held-out data, and checkpoints.

Early stopping uses the one-standard-error rule (Breiman et al., *Classification and Regression
Trees*, 1984) in the opposite direction: of all steps whose held-out loss is within one standard
error of the smallest, the *last* step's weights are kept, not the first's. Plans depend on
differences between reuse decisions to which the held-out loss is almost insensitive (docs/LOG.md).
A resumed fit ends with the same bits as an uninterrupted fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dqar.finite_fields import require_finite
from pipeline.train.checkpoint import Checkpoint, CheckpointState

ROUND = 50
"""Optimizer steps between two validations. Losses are reported and checkpoints written then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """Settings of the optimizer and of early stopping."""

    steps: int = 600
    """Most AdamW steps, and the length of the cosine."""
    learning_rate: float = 5e-3
    """Initial learning rate, which falls to zero on a cosine."""
    weight_decay: float = 1e-3
    """Decoupled weight decay of the networks."""
    huber_delta: float = 1.0
    """Residual of log D^2 at which the Huber loss changes from quadratic to linear."""
    noise_ridge: float = 0.1
    """Penalty on the squared nuisance of a noise sample, relative to a trajectory's loss."""
    rows_per_step: int = 2**16
    """Rows of the gate table in the batch of one step. With at most this many rows every step uses
    all trajectories; with more, steps cycle through batches of noise samples."""
    patience: int = 4
    """Number of consecutive validations with a worse loss after which the fit ends."""
    seed: int = 0
    """Random seed of the weights and of the batches."""

    def __post_init__(self) -> None:
        require_finite(self, "learning_rate", "weight_decay", "huber_delta", "noise_ridge")
        for name in ("steps", "rows_per_step", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1. Got {getattr(self, name)}. Leave it out."
                )


class Objective(nn.Module):
    """Module to fit, which computes its own loss and gradient."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups for the optimizer."""
        raise NotImplementedError

    def backward(self, step: int) -> float:
        """Add the gradient of the loss of one step and return the loss."""
        raise NotImplementedError

    def held_out_losses(self) -> Float[Tensor, " n"] | None:
        """Return the losses of independent parts of the held-out data; None without such data."""
        raise NotImplementedError


@dataclass(slots=True)
class FitState:
    """Progress of a fit, and the weights that early stopping keeps."""

    step: int = 0
    """Optimizer steps taken."""
    best_losses: Float[Tensor, " n"] = field(default_factory=lambda: torch.empty(0))
    """Held-out losses at the validation with the smallest mean loss; empty before the first
    validation, and if nothing is held out."""
    kept_step: int = 0
    """Optimizer step of the kept weights."""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """State dict of the kept weights; empty until the first validation."""

    def validate(self, objective: Objective) -> None:
        """Keep the current weights unless :func:`is_worse` than the best validation so far."""
        losses = objective.held_out_losses()
        if losses is None:
            return
        if not len(self.best_losses) or losses.mean() < self.best_losses.mean():
            self.best_losses = losses
        if not is_worse(losses, self.best_losses):
            self.kept_step = self.step
            self.kept = {name: value.clone() for name, value in objective.state_dict().items()}

    def is_stale(self, patience: int) -> bool:
        """Return True after ``patience`` consecutive validations with a worse loss."""
        return bool(self.kept) and self.step - self.kept_step >= patience * ROUND


def is_worse(losses: Float[Tensor, " n"], best: Float[Tensor, " n"]) -> bool:
    """Return True if the mean loss is larger by more than one standard error of the difference.

    Args:
        losses: losses of independent parts of the held-out data.
        best: losses of the same parts at the best validation.
    """
    difference = losses - best
    error = difference.std() / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    # The comparison is negated so that NaN counts as worse.
    return not bool(difference.mean() <= error)


def fit_with_early_stopping(
    objective: Objective,
    config: FitConfig,
    report: Callable[[int, float], None] = lambda step, loss: None,
    checkpoint: Checkpoint | None = None,
) -> FitState:
    """Fit an objective, which ends with the kept weights (the last if nothing is held out).

    Args:
        objective: module to fit.
        config: settings of the optimizer and of early stopping.
        report: called with the step and the loss every :data:`ROUND` steps.
        checkpoint: checkpoint to resume from and to write; None for neither.
    """
    optimizer = torch.optim.AdamW(objective.parameter_groups(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    state = _resumed(objective, optimizer, schedule, checkpoint)
    while state.step < config.steps and not state.is_stale(config.patience):
        optimizer.zero_grad()
        loss = objective.backward(state.step)
        optimizer.step()
        schedule.step()
        state.step += 1
        if state.step % ROUND == 0 or state.step == config.steps:
            report(state.step, loss)
            state.validate(objective)
            if checkpoint is not None and checkpoint.is_due:
                checkpoint.write(_snapshot(state, objective, optimizer, schedule))
    if state.kept:
        objective.load_state_dict(state.kept)
    return state


def _snapshot(
    state: FitState, objective: Objective, optimizer: Any, schedule: Any
) -> CheckpointState:
    """Return the state on which the remaining steps of a fit depend."""
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


def _resumed(
    objective: Objective, optimizer: Any, schedule: Any, checkpoint: Checkpoint | None
) -> FitState:
    kept = None if checkpoint is None else checkpoint.read()
    if checkpoint is None or kept is None:
        return FitState()
    numbers = kept.numbers
    print(
        f"train: the {checkpoint.stage} fit resumes from its checkpoint at optimizer step "
        f"{numbers['step']}",
        flush=True,
    )
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
