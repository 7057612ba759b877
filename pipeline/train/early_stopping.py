"""Adam on a cosine with early stopping on held-out data, and resumption from checkpoints.

The stopping rule is the one-standard-error rule (Breiman et al., *Classification and Regression
Trees*, 1984) turned round: weights are kept after the *most* steps whose held-out loss is within
one standard error of the least, rather than the fewest. Plans depend on differences between gates
that a held-out loss hardly shows (docs/LOG.md). A resumed fit ends at the same bits as an
uninterrupted one.
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
"""Steps between two validations; losses are reported and checkpoints written there too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """Settings of a fit."""

    steps: int = 600
    """Adam steps at most, and the length of the cosine."""
    learning_rate: float = 5e-3
    """Peak learning rate, cosine to zero."""
    weight_decay: float = 1e-3
    """Decoupled weight decay of the networks."""
    huber_delta: float = 1.0
    """Residual of log D^2 at which the loss turns from square to linear."""
    noise_ridge: float = 0.1
    """Penalty on the squared nuisance of a noise sample, relative to a trajectory's loss."""
    rows_per_step: int = 2**16
    """Rows of gates in a step's batch. With no more rows than that, each step sees all
    trajectories; with more, steps take batches of noise samples in turns."""
    patience: int = 4
    """Validations in a row with a worse loss, after which the fit ends."""
    seed: int = 0
    """Seed of the weights and of the batches."""

    def __post_init__(self) -> None:
        for name in ("steps", "rows_per_step", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1. Got {getattr(self, name)}. Leave it out."
                )


class Objective(nn.Module):
    """A module to be fitted, which adds up the gradient of its own loss."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the optimizer."""
        raise NotImplementedError

    def backward(self, step: int) -> float:
        """Add the gradient of a step's loss; returns the loss."""
        raise NotImplementedError

    def held_out_losses(self) -> Float[Tensor, " n"] | None:
        """Losses of independent parts of held-out data; None where nothing is held out."""
        raise NotImplementedError


@dataclass(slots=True)
class FitState:
    """Progress of a fit, and the weights that it keeps."""

    step: int = 0
    """Steps taken."""
    best_losses: Float[Tensor, " n"] = field(default_factory=lambda: torch.empty(0))
    """Held-out losses where their mean was least; empty before the first validation, and where
    nothing is held out."""
    kept_step: int = 0
    """Steps after which the kept weights were reached."""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """The kept weights."""

    def validate(self, objective: Objective) -> None:
        """Keep the weights unless the held-out loss is worse than the best so far."""
        losses = objective.held_out_losses()
        if losses is None:
            return
        if not len(self.best_losses) or losses.mean() < self.best_losses.mean():
            self.best_losses = losses
        if not is_worse(losses, self.best_losses):
            self.kept_step = self.step
            self.kept = {name: value.clone() for name, value in objective.state_dict().items()}

    def is_stale(self, patience: int) -> bool:
        """True after ``patience`` validations in a row with a worse loss."""
        return bool(self.kept) and self.step - self.kept_step >= patience * ROUND


def is_worse(losses: Float[Tensor, " n"], best: Float[Tensor, " n"]) -> bool:
    """Test whether the mean loss is larger by more than one standard error of the difference."""
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
    """Fit an objective; it ends with the kept weights, or the last where nothing is held out.

    Args:
        report: called with the step and the loss every :data:`ROUND` steps.
        checkpoint: where to resume from, and to write to.
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
    """Everything that the rest of a fit depends on."""
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
