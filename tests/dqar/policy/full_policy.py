"""A policy of every feature, whose fields all differ from their defaults."""

from __future__ import annotations

import torch

from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from dqar.records import FEATURES

FULL = PolicySpec(
    features=FEATURES,
    means=tuple(0.1 * place for place in range(len(FEATURES))),
    scales=tuple(1.0 + 0.3 * place for place in range(len(FEATURES))),
    hidden=(8, 4),
    members=3,
    max_gap=7,
    log_threshold=-3.7,
    temperature=0.3,
    savings={"attn": 0.1 + 0.2, "ff": 2.0},
    sites=("attn", "ff"),
    steps=50,
    sampler="ddim",
    guidance=1.5,
    model_hash="abc",
    metrics={"r2": 1 / 3},
)


def policy_of(spec: PolicySpec | None = None) -> ReusePolicy:
    torch.manual_seed(0)
    return ReusePolicy(spec)
