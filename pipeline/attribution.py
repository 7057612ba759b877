"""From trajectories to gates: how much of a final error each reuse caused.

A trajectory exposed to randomised reuse ends at a relative error D from its twin. The model is
``D^2 = exp(u) * (D0^2 + sum over reused gates of exp(f(x)))`` with f the policy's MLP, fitted on
log D^2: errors of many small reuses add up like independent perturbations. u is a nuisance of the
noise that trajectories of one twin share: some images are more sensitive than others. Damage of
consecutive stale steps is coherent rather than orthogonal; the gap carries what a sum can carry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dqar.policy import ReusePolicy
from dqar.policy_spec import PolicySpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ReusedGates:
    """The reused gates of some trajectories, and what each trajectory ended at."""

    features: Float[Tensor, "gates f"]
    """Unscaled features of each reused gate."""
    trajectory: Int[Tensor, " gates"]
    """Index into the trajectories."""
    squared_error: Float[Tensor, " trajectories"]
    """D^2: squared relative L2 distance of the final latent to the twin's."""
    noise: Int[Tensor, " trajectories"]
    """Index of the noise that a trajectory starts from."""
    weight: Float[Tensor, " gates"]
    """How many gates a row stands for."""

    @property
    def log_error(self) -> Float[Tensor, " trajectories"]:
        """log D^2, finite for a trajectory that ended on its twin."""
        return self.squared_error.clamp_min(1e-12).log()

    def subset(self, chosen: Bool[Tensor, " trajectories"]) -> ReusedGates:
        """Some of the trajectories, with their gates."""
        of_gate = chosen[self.trajectory]
        renumbered = chosen.long().cumsum(0) - 1
        return ReusedGates(
            features=self.features[of_gate],
            trajectory=renumbered[self.trajectory[of_gate]],
            squared_error=self.squared_error[chosen],
            noise=torch.unique(self.noise[chosen], return_inverse=True)[1],
            weight=self.weight[of_gate],
        )

    def with_features(self, features: Float[Tensor, "gates f"]) -> ReusedGates:
        """The same gates, seen differently."""
        return replace(self, features=features)

    def collapsed(self) -> ReusedGates:
        """Gates of a trajectory that look alike, as one row each."""
        table = torch.cat([self.trajectory[:, None].double(), self.features.double()], dim=1)
        rows, place = table.unique(dim=0, return_inverse=True)
        weight = torch.zeros(len(rows)).index_add(0, place, self.weight)
        features, trajectory = rows[:, 1:].float(), rows[:, 0].long()
        return replace(self, features=features, trajectory=trajectory, weight=weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """How the damage model is fitted."""

    steps: int = 600
    """Adam steps over all trajectories."""
    learning_rate: float = 5e-3
    """Peak learning rate, cosine to zero."""
    weight_decay: float = 1e-3
    """Decoupled weight decay of the networks."""
    huber_delta: float = 1.0
    """Where the loss on log D^2 turns from square to linear."""
    noise_ridge: float = 0.1
    """Penalty on the squared nuisance of a noise, relative to a trajectory's loss."""
    seed: int = 0
    """Seed of the weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DamageModel:
    """A fitted model: the policy and the floor."""

    policy: ReusePolicy
    log_floor: float
    """log D0^2: what dtype and cache leave even where nothing is reused."""

    def predict(self, gates: ReusedGates) -> Float[Tensor, " trajectories"]:
        """Predicted log D^2 of trajectories whose noise is unknown."""
        floor = torch.tensor(self.log_floor)
        return _log_totals(self.policy, floor.expand(self.policy.spec.members), gates).mean(dim=0)


def fit_damage(
    spec: PolicySpec,
    gates: ReusedGates,
    config: FitConfig,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> DamageModel:
    """Fit f, each member on its own from other weights.

    Args:
        report: called with the step and the loss every 50 steps.
    """
    torch.manual_seed(config.seed)
    policy = ReusePolicy(spec)
    _start_at_mean_damage(policy, gates)
    members, num_noises = spec.members, int(gates.noise.max()) + 1
    log_floor = nn.Parameter((gates.log_error.min() - 2.0).expand(members).clone())
    nuisance = nn.Parameter(torch.zeros(members, num_noises))
    optimizer = torch.optim.AdamW(
        [
            {"params": policy.parameters(), "weight_decay": config.weight_decay},
            {"params": [log_floor, nuisance], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    target = gates.log_error.expand(members, -1)
    for step in range(config.steps):
        predicted = _log_totals(policy, log_floor, gates) + nuisance[:, gates.noise]
        loss = F.huber_loss(predicted, target, delta=config.huber_delta) * members
        loss = loss + config.noise_ridge * nuisance.square().sum() / target.shape[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            report(step + 1, loss.item() / members)
    policy.eval().requires_grad_(False)
    return DamageModel(policy=policy, log_floor=float(log_floor.detach().mean()))


def fit_local(
    spec: PolicySpec,
    features: Float[Tensor, "gates f"],
    log_error: Float[Tensor, " gates"],
    config: FitConfig,
) -> ReusePolicy:
    """Fit f on the log squared *local* error of single gates: the label that published routers
    learn from. It is here to be compared with; it ignores what becomes of an error."""
    torch.manual_seed(config.seed)
    policy = ReusePolicy(spec)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(config.steps):
        batch = torch.randint(len(features), (8192,), generator=generator)
        predicted = policy.by_member(features[batch])
        loss = F.huber_loss(predicted, log_error[batch].expand_as(predicted))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return policy.eval().requires_grad_(False)


def _log_totals(
    policy: ReusePolicy, log_floor: Float[Tensor, " members"], gates: ReusedGates
) -> Float[Tensor, "members trajectories"]:
    damage = policy.by_member(gates.features).clamp(max=20.0).exp() * gates.weight
    floor = log_floor.exp()[:, None].expand(-1, len(gates.squared_error))
    return floor.index_add(1, gates.trajectory, damage).log()


def _start_at_mean_damage(policy: ReusePolicy, gates: ReusedGates) -> None:
    per_gate = gates.squared_error.sum() / gates.weight.sum().clamp_min(1)
    for network in policy.networks:
        last = list(network.children())[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.fill_(float(per_gate.clamp_min(1e-12).log()))
