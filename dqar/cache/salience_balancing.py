"""Salience balancing of cached tensors by channel, after PTQ4DiT (Wu et al. 2024,
arXiv 2405.16005): channel-wise salience balancing (CSB) with Spearman's rho-guided salience
calibration (SSC).

A channel's *salience* is its largest magnitude: ``a_j = max|X_j|`` in the cached tensor and ``w_j``
in its *consumer*, which multiplies channel j next: the output projection's columns for V, the
queries for K, the adaLN gate for an output. Salient channels seldom meet salient consumers, and
CSB brings both to their geometric mean ``sqrt(a_j w_j)`` by multiplying X with
``b_j = sqrt(w_j / a_j)`` and dividing the consumer by ``b_j``, which does not change the product.

Effect on a per-tensor scale: X is stored as ``b_j X_j`` with one scale
``s = max_k(b_k a_k) / qmax`` and read back divided by ``b_j``, so that the error of channel j is at
most ``s / (2 b_j)``, and after multiplication by the consumer at most

    w_j s / (2 b_j) = (w_j / b_j) max_k(b_k a_k) / (2 qmax)
                    = sqrt(a_j w_j) max_k sqrt(a_k w_k) / (2 qmax).

The bound of channel j is proportional to its balanced salience in place of ``w_j max_k a_k``. The
largest bound falls from ``max_j w_j max_k a_k`` to ``max_j(a_j w_j)``, and no other factors give a
smaller one. PTQ4DiT also quantises the consumer; here the consumer stays in floating point. The
factors ``b_j = 1 / a_j`` would then have the same largest bound and smaller bounds for the other
channels. The square root is used since its logarithm depends half as much on the calibrated
``a_j``, which drift over timesteps. All saliences are finite and not negative.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

FLOOR = 1e-4
"""Smallest salience, as a share of the largest, that the factors assume. The floor keeps the ratio
of any two factors within 10^4, and gives a finite factor to a channel that was zero throughout
calibration."""


def spearman(a: Float[Tensor, "*t d"], b: Float[Tensor, "*t d"]) -> Float[Tensor, "*t"]:
    """Return Spearman's rank correlation over the last axis, with average ranks for ties, and 0
    where ``a`` or ``b`` is constant."""
    rank_a, rank_b = _centred_ranks(a), _centred_ranks(b)
    spread = rank_a.square().sum(-1).float().sqrt() * rank_b.square().sum(-1).float().sqrt()
    return (rank_a * rank_b).sum(-1) / spread.clamp_min(1.0)


def _centred_ranks(x: Float[Tensor, "*t d"]) -> Int[Tensor, "*t d"]:
    """Return twice the centred average rank, ``2 rank - (d + 1)``: integers, so that sums are
    exact and a constant vector gives zeros."""
    x = x.contiguous()
    ordered = x.sort(dim=-1).values
    below = torch.searchsorted(ordered, x)
    not_above = torch.searchsorted(ordered, x, right=True)
    return below + not_above - x.shape[-1]


def calibrated_salience(
    salience: Float[Tensor, "t d"], consumer: Float[Tensor, "t d"]
) -> Float[Tensor, " d"]:
    """Return one salience for all timesteps (SSC): the mean of ``salience`` with weights
    proportional to ``exp(-rho_t)``, ``rho_t = spearman(salience_t, consumer_t)``.

    The less tensor and consumer agree on which channels are salient, the more balancing reduces
    the error, and the more the timestep counts. rho is symmetric, so exchanging the arguments
    calibrates the consumer with the same weights. A consumer that does not change over timesteps
    is passed repeated.
    """
    weights = torch.softmax(-spearman(salience, consumer), dim=0)
    return weights @ salience.float()


def balance_factors(
    salience: Float[Tensor, " d"], consumer: Float[Tensor, " d"]
) -> Float[Tensor, " d"]:
    """Return the balance factors ``b_j = sqrt(consumer_j / salience_j)``, scaled to a geometric
    mean of 1 (CSB). :func:`dqar.cache.quantization.quantize` multiplies the channels of the
    cached tensor by them.

    The scale of either vector has no effect. The factors are positive and finite even where a
    channel or a whole vector is zero (:data:`FLOOR`).
    """
    log_factors = 0.5 * (_floored(consumer).log() - _floored(salience).log())
    return (log_factors - log_factors.mean()).exp()


def _floored(salience: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    salience = salience.float()
    tiny = torch.finfo(torch.float32).tiny
    return salience.clamp_min((FLOOR * salience.max()).clamp_min(tiny))
