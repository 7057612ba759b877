"""Damage model: attributes the final error of a trajectory to the reuse decisions in it.

A trajectory with randomised reuse ends at a relative L2 error D from its reference sample. The
model is ``D^2 = exp(u) * (D0^2 + sum over reused gates of exp(f(x)))``, where a gate is one (step,
layer, site), x its features and f the policy's MLP. It is fitted on log D^2. The sum over gates
assumes that the errors of single reuses are orthogonal, like independent perturbations. Errors of
consecutive stale steps are correlated instead; f can express that only through the gap (the steps
since the site computed), which is one of its features. u is a nuisance parameter of each noise
sample, as some images are more sensitive than others; all trajectories from the same noise sample
share it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from pipeline.train.checkpoint import Checkpoint
from pipeline.train.early_stopping import FitConfig, FitState, Objective, fit_with_early_stopping
from pipeline.train.gate_table import Gates, ReusedGates

CHUNK_ROWS = 2**14
"""Rows of the gate table in one backward pass. The gradient of an optimizer step is summed over
such chunks, so that memory does not grow with the number of rows."""

Places = Int[Tensor, " _"]
"""Indices of trajectories, ascending."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DamageModel:
    """Policy network with the error floor that remains without reuse."""

    policy: ReusePolicy
    """Network f of the log damage of one reused gate."""
    log_floor: float
    """log D0^2: log squared error that dtype and cache format cause without any reuse."""

    @torch.no_grad()
    def predict(self, gates: ReusedGates) -> Float[Tensor, " trajectories"]:
        """Predict log D^2 of trajectories, with u = 0: for noise samples that were not fitted."""
        floor = torch.tensor(self.log_floor)
        return _log_totals(self.policy, floor.expand(self.policy.spec.members), gates).mean(dim=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DamageFit:
    """Fitted damage model, with the final state of its fit."""

    model: DamageModel
    """Model with the weights that early stopping kept."""
    state: FitState
    """Number of steps taken, and the step whose weights were kept."""


def fit_damage(
    spec: PolicySpec,
    gates: Gates,
    config: FitConfig,
    report: Callable[[int, float], None] = lambda step, loss: None,
    *,
    held_out: ReusedGates | None = None,
    checkpoint: Checkpoint | None = None,
) -> DamageFit:
    """Fit an ensemble of networks f by gradient descent, each from its own initial weights.

    Args:
        spec: specification of the policy, with its features and number of members.
        gates: reused gates of the trajectories to fit.
        config: settings of the optimizer.
        report: see :func:`pipeline.train.early_stopping.fit_with_early_stopping`.
        held_out: trajectories of other noise samples for early stopping; None takes all steps.
        checkpoint: see :func:`pipeline.train.early_stopping.fit_with_early_stopping`.
    """
    objective = DamageObjective(spec, gates, config, held_out)
    state = fit_with_early_stopping(objective, config, report, checkpoint)
    objective.policy.eval().requires_grad_(False)
    return DamageFit(model=objective.model(), state=state)


class DamageObjective(Objective):
    """Huber loss on log D^2 of trajectories, batch by batch, with a ridge penalty on u."""

    def __init__(
        self, spec: PolicySpec, gates: Gates, config: FitConfig, held_out: ReusedGates | None
    ) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        self.policy = ReusePolicy(spec)
        _start_at_mean_damage(self.policy, gates)
        members, num_noise_samples = spec.members, int(gates.noise.max()) + 1
        self.log_floor = nn.Parameter((gates.log_error.min() - 2.0).expand(members).clone())
        self.nuisance = nn.Parameter(torch.zeros(members, num_noise_samples))
        self.gates, self.held_out, self.config = gates, held_out, config
        self.batches = batches_of(gates, config.rows_per_step, config.seed)
        # A single chunk is read once and kept, instead of once for each step.
        self.whole = gates.load() if len(self.batches) == len(self.batches[0]) == 1 else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": self.policy.parameters(), "weight_decay": self.config.weight_decay},
            {"params": [self.log_floor, self.nuisance], "weight_decay": 0.0},
        ]

    def backward(self, step: int) -> float:
        batch = self.batches[step % len(self.batches)]
        size = sum(map(len, batch))
        samples = self.gates.noise[torch.cat(batch)].unique()
        ridge = self.config.noise_ridge * self.nuisance[:, samples].square().sum() / size
        total = 0.0
        for chunk in batch:
            loss = self._loss(chunk) * (len(chunk) / size) + ridge
            loss.backward()
            total += loss.item()
            ridge = torch.zeros(())
        return total / self.policy.spec.members

    def _loss(self, chunk: Places) -> Float[Tensor, ""]:
        """Return the loss of a chunk, summed over the members of the ensemble."""
        gates, members = self._load(chunk), self.policy.spec.members
        predicted = _log_totals(self.policy, self.log_floor, gates)
        predicted = predicted + self.nuisance[:, self.gates.noise[chunk]]
        target = gates.log_error.expand(members, -1)
        return F.huber_loss(predicted, target, delta=self.config.huber_delta) * members

    def _load(self, chunk: Places) -> ReusedGates:
        if self.whole is not None:
            return self.whole
        chosen = torch.zeros(len(self.gates.noise), dtype=torch.bool)
        chosen[chunk] = True
        return self.gates.subset(chosen).load()

    def held_out_losses(self) -> Float[Tensor, " noise_samples"] | None:
        if self.held_out is None:
            return None
        held_out, delta = self.held_out, self.config.huber_delta
        predicted, target = self.model().predict(held_out), held_out.log_error
        losses = F.huber_loss(predicted, target, delta=delta, reduction="none")
        # Trajectories from one noise sample have correlated errors; noise samples are independent.
        noise = held_out.noise.unique(return_inverse=True)[1]
        count = torch.bincount(noise)
        return torch.zeros(len(count)).index_add(0, noise, losses) / count

    def model(self) -> DamageModel:
        """Return the damage model with the current weights."""
        return DamageModel(policy=self.policy, log_floor=float(self.log_floor.detach().mean()))


def batches_of(gates: Gates, rows: int, seed: int) -> list[list[Places]]:
    """Divide noise samples at random into batches of about ``rows`` rows.

    All trajectories of one noise sample are in the same batch.

    Args:
        gates: gates to divide.
        rows: rows of a batch.
        seed: random seed.

    Returns:
        The chunks of each batch; a chunk is the indices of its trajectories.
    """
    by_noise = torch.zeros(int(gates.noise.max()) + 1, dtype=torch.long)
    by_noise = by_noise.index_add(0, gates.noise, gates.num_rows)
    total = int(by_noise.sum())
    number = -(-total // rows) or 1
    order = torch.randperm(len(by_noise), generator=torch.Generator().manual_seed(seed))
    batch_of_noise = torch.empty_like(by_noise)
    before = by_noise[order].cumsum(0) - by_noise[order]
    batch_of_noise[order] = (before * number // max(1, total)).clamp(max=number - 1)
    batch = batch_of_noise[gates.noise]
    return [_chunks(torch.nonzero(batch == one)[:, 0], gates) for one in batch.unique()]


def _chunks(trajectories: Places, gates: Gates) -> list[Places]:
    rows = gates.num_rows[trajectories]
    chunk = (rows.cumsum(0) - rows) // CHUNK_ROWS
    if int(rows.sum()) <= CHUNK_ROWS:
        return [trajectories]
    return [trajectories[chunk == one] for one in chunk.unique()]


def _log_totals(
    policy: ReusePolicy, log_floor: Float[Tensor, " members"], gates: ReusedGates
) -> Float[Tensor, "members trajectories"]:
    totals = log_floor.exp()[:, None].expand(-1, len(gates.squared_error))
    # In chunks, which bounds the memory of a prediction to that of an optimizer step.
    pieces = (one.split(CHUNK_ROWS) for one in (gates.features, gates.trajectory, gates.weight))
    for features, trajectory, weight in zip(*pieces, strict=True):
        damage = policy.by_member(features).clamp(max=20.0).exp() * weight
        totals = totals.index_add(1, trajectory, damage)
    return totals.log()


def _start_at_mean_damage(policy: ReusePolicy, gates: Gates) -> None:
    per_gate = gates.squared_error.sum() / gates.num_gates.sum().clamp_min(1)
    for network in policy.networks:
        last = list(network.children())[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.fill_(float(per_gate.clamp_min(1e-12).log()))
