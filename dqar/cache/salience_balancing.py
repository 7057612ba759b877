"""Channel-wise salience balancing of cached tensors, after PTQ4DiT (Wu et al. 2024,
arXiv 2405.16005): CSB with its Spearman-guided calibration (SSC).

A channel's *salience* is its largest magnitude: ``a_j = max|X_j|`` in the cached tensor and ``w_j``
in its *consumer*, which multiplies channel j next: the output projection's columns for V, the
queries for K, the adaLN gate for an output. Salient channels seldom meet salient consumers, and
CSB brings both to their geometric mean ``sqrt(a_j w_j)`` by multiplying X with
``b_j = sqrt(w_j / a_j)`` and dividing the consumer by it, which leaves the product as it was.

Why that helps a per-tensor scale: X is stored as ``b_j X_j`` with one scale
``s = max_k(b_k a_k) / qmax`` and read back divided by ``b_j``, so that channel j is off by at most
``s / (2 b_j)``, and what its consumer makes of it by at most

    w_j s / (2 b_j) = (w_j / b_j) max_k(b_k a_k) / (2 qmax)
                    = sqrt(a_j w_j) max_k sqrt(a_k w_k) / (2 qmax).

The error follows the balanced salience in place of ``w_j max_k a_k``, and its worst channel falls
from ``max_j w_j max_k a_k`` to ``max_j(a_j w_j)``, which no other factors get below. The paper
also quantises the consumer. Here it stays in floating point, and ``b_j = 1 / a_j`` would have the
same worst channel and less error in the others; the square root leans half as much on the
calibrated ``a_j``, which drift over timesteps. Saliences are finite and not negative throughout.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

FLOOR = 1e-4
"""Share of the largest salience that the least counts as, which keeps factors within 10^4 of each
other. A channel silent in calibration that wakes to no more than this is balanced as any other."""


def spearman(a: Float[Tensor, "*t d"], b: Float[Tensor, "*t d"]) -> Float[Tensor, "*t"]:
    """Spearman's rank correlation over the last axis; ties take their average rank. 0 where
    either is constant, since it then orders nothing."""
    rank_a, rank_b = _centred_ranks(a), _centred_ranks(b)
    spread = rank_a.square().sum(-1).float().sqrt() * rank_b.square().sum(-1).float().sqrt()
    return (rank_a * rank_b).sum(-1) / spread.clamp_min(1.0)


def _centred_ranks(x: Float[Tensor, "*t d"]) -> Int[Tensor, "*t d"]:
    """Twice the average rank less its mean, ``2 rank - (d + 1)``: an integer, so sums are exact
    and a constant gives zeros."""
    x = x.contiguous()
    ordered = x.sort(dim=-1).values
    below = torch.searchsorted(ordered, x)
    not_above = torch.searchsorted(ordered, x, right=True)
    return below + not_above - x.shape[-1]


def calibrated_salience(
    salience: Float[Tensor, "t d"], consumer: Float[Tensor, "t d"]
) -> Float[Tensor, " d"]:
    """One salience for all timesteps: the mean of ``salience`` with weights proportional to
    ``exp(-rho_t)``, ``rho_t = spearman(salience_t, consumer_t)`` (SSC).

    The less the two agree on which channels are salient, the more balancing gains, and the more
    the timestep counts. rho is symmetric: with the arguments exchanged this calibrates a consumer
    that changes over timesteps, by the same weights. One that does not is repeated.
    """
    weights = torch.softmax(-spearman(salience, consumer), dim=0)
    return weights @ salience.float()


def balance_factors(
    salience: Float[Tensor, " d"], consumer: Float[Tensor, " d"]
) -> Float[Tensor, " d"]:
    """``b_j = sqrt(consumer_j / salience_j)``, scaled to a geometric mean of 1 (CSB): what
    :func:`dqar.cache.quantization.quantize` multiplies the channels of the cached tensor by.

    Only ratios count: neither vector's unit matters. Positive and finite also where a channel or
    a whole vector is zero (:data:`FLOOR`).
    """
    log_factors = 0.5 * (_floored(consumer).log() - _floored(salience).log())
    return (log_factors - log_factors.mean()).exp()


def _floored(salience: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    salience = salience.float()
    tiny = torch.finfo(torch.float32).tiny
    return salience.clamp_min((FLOOR * salience.max()).clamp_min(tiny))
