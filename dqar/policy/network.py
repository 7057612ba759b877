"""The learned reuse policy: a small MLP that predicts how much a reuse changes the final latent.

The *damage* of a reuse is its share of the squared relative L2 error of the final latent. The
network's output ``f(x)`` is the predicted natural logarithm of the damage, and
``sigmoid((log_threshold - f(x)) / temperature)`` is the reuse probability of the DQAR paper.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dqar.policy.spec import PolicySpec
from dqar.records import GateInputs


class ReusePolicy(nn.Module):
    """An MLP over the features of a gate; the default is the DQAR paper's 5-32-32-1 (1,281
    parameters)."""

    means: Tensor
    scales: Tensor
    log_savings: Tensor

    def __init__(self, spec: PolicySpec | None = None) -> None:
        super().__init__()
        self.spec = spec or PolicySpec()
        width = len(self.spec.features)
        self.register_buffer("means", torch.tensor(self.spec.means or (0.0,) * width), False)
        self.register_buffer("scales", torch.tensor(self.spec.scales or (1.0,) * width), False)
        savings = torch.tensor(self.spec.saving_of_site()).clamp_min(1e-12)
        self.register_buffer("log_savings", savings.log(), False)
        networks = [_mlp(width, self.spec.hidden) for _ in range(self.spec.members)]
        self.networks = nn.ModuleList(networks)

    def with_spec(self, **changes: Any) -> ReusePolicy:
        """Return a policy with the same weights and a changed specification, in eval mode and
        without gradients."""
        changed = ReusePolicy(replace(self.spec, **changes))
        changed.load_state_dict(self.state_dict())
        return changed.eval().requires_grad_(False)

    def forward(self, features: Float[Tensor, "*rows f"]) -> Float[Tensor, "*rows"]:
        """Predict the log damage from unscaled features, mean over the ensemble's networks."""
        return self.by_member(features).mean(dim=0)

    def by_member(self, features: Float[Tensor, "*rows f"]) -> Float[Tensor, "members *rows"]:
        """Predict the log damage with each network of the ensemble."""
        scaled = (features - self.means) / self.scales
        return torch.stack([network(scaled).squeeze(-1) for network in self.networks])

    def score(self, inputs: GateInputs) -> Float[Tensor, "g b"]:
        """Predicted log damage per unit of cost that a reuse saves, for every gate of a step. With
        granularity ``step`` all layers of a site have the log of their mean damage."""
        damage = self(inputs.columns(self.spec.features))
        if self.spec.granularity == "step":
            damage = _tied(damage, inputs.site)
        return damage - self.log_savings[inputs.site][:, None]

    def probability(
        self, inputs: GateInputs, log_threshold: float | Float[Tensor, " b"] | None = None
    ) -> Float[Tensor, "g b"]:
        """The DQAR paper's reuse probability; 0.5 where the score equals the threshold."""
        threshold = self.spec.log_threshold if log_threshold is None else log_threshold
        return torch.sigmoid((threshold - self.score(inputs)) / self.spec.temperature)


def _tied(damage: Float[Tensor, "g b"], site: Int[Tensor, " g"]) -> Float[Tensor, "g b"]:
    """Return the log of the mean damage of each site's gates, for each of these gates."""
    counts = site.unique_consecutive(return_counts=True)[1].tolist()
    together = [part.logsumexp(dim=0, keepdim=True) for part in damage.split(counts)]
    means = [part - math.log(count) for part, count in zip(together, counts, strict=True)]
    return torch.cat([part.expand(count, -1) for part, count in zip(means, counts, strict=True)])


def _mlp(width: int, hidden: tuple[int, ...]) -> nn.Sequential:
    sizes = (width, *hidden)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
