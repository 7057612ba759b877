"""Signals that reuse rules read: attention entropy, latent norm, relative change.

All are pure functions; the signal-to-noise ratio is in :mod:`dqar.snr`.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EntropyEstimate:
    """Mean attention entropy estimated from some query rows, with its standard error."""

    mean: Float[Tensor, " r"]
    """Entropy in nats, mean over heads and the query rows that were read."""
    standard_error: Float[Tensor, " r"]
    """Standard error of ``mean`` in nats; 0 if every query row was read, infinite if only one of
    several was read."""


def attention_entropy(
    query: Float[Tensor, "r h n e"],
    key: Float[Tensor, "r h m e"],
    *,
    scale: float | None = None,
    mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    max_rows: int | None = None,
) -> Float[Tensor, " r"]:
    """Shannon entropy of softmax attention in nats, mean over heads and query rows.

    ``H_i = logsumexp_j(s_ij) - sum_j p_ij s_ij`` with ``s_ij = scale * q_i . k_j``, in float32.
    This is the exact entropy; the DQAR talk's form with an epsilon (:func:`map_entropy`) is lower
    by at most ``m * epsilon``. With ``max_rows`` the mean is estimated from query rows spread over
    the sequence, and no n x m map is formed; :func:`sampled_entropy` adds the standard error.

    Args:
        scale: softmax scale; ``1 / sqrt(e)`` by default.
        mask: the ``attn_mask`` of ``scaled_dot_product_attention``, broadcastable to
            ``[r, h, n, m]``: a boolean mask is true where a key is seen, a float mask is added to
            the scores. A masked key has ``p = 0``; a query row that sees no key has entropy 0.
        max_rows: the largest number of query rows to read; None reads all.

    Raises:
        ValueError: if ``max_rows`` is less than 1.
    """
    return _row_entropy(query, key, scale, mask, max_rows).mean(dim=(1, 2))


def sampled_entropy(
    query: Float[Tensor, "r h n e"],
    key: Float[Tensor, "r h m e"],
    *,
    scale: float | None = None,
    mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    max_rows: int,
) -> EntropyEstimate:
    """Estimate :func:`attention_entropy` from some query rows, with its standard error.

    The entropy of a query row, averaged over heads, is one of ``k`` observations from a population
    of ``n``. The standard error is ``s / sqrt(k) * sqrt(1 - k / n)``, that of simple random
    sampling without replacement (Cochran 1977, eq. 2.20).

    Raises:
        ValueError: if ``max_rows`` is less than 1.
    """
    rows = _row_entropy(query, key, scale, mask, max_rows).mean(dim=1)
    read, total = rows.shape[1], query.shape[2]
    if read == total:
        error = torch.zeros_like(rows[:, 0])
    elif read == 1:
        error = torch.full_like(rows[:, 0], math.inf)
    else:
        error = rows.std(dim=1) * math.sqrt((1.0 - read / total) / read)
    return EntropyEstimate(mean=rows.mean(dim=1), standard_error=error)


def _row_entropy(
    query: Tensor, key: Tensor, scale: float | None, mask: Tensor | None, max_rows: int | None
) -> Float[Tensor, "r h k"]:
    """Entropy in nats of each query row that is read."""
    rows = spread_rows(query.shape[2], max_rows, query.device)
    scores = _scores(query, key, scale, mask, rows)
    # A row that sees no key has a peak of -inf; the floor avoids -inf - -inf, which is NaN.
    peak = scores.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).min)
    # exp(-200) is 0 in float32, so the floor changes no weight, and a masked key adds 0 * -200
    # in place of 0 * -inf, which is NaN.
    below = (scores - peak).clamp_min(-200.0)
    weight = below.exp()
    total = weight.sum(dim=-1).clamp_min(1.0)
    return (total.log() - (weight * below).sum(dim=-1) / total).clamp_min(0.0)


def _scores(
    query: Tensor, key: Tensor, scale: float | None, mask: Tensor | None, rows: Tensor | None
) -> Float[Tensor, "r h k m"]:
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    # Autocast would round the scores to half precision, and the entropy with them.
    with _full_precision(query.device.type):
        asking = query if rows is None else query[:, :, rows]
        # Keys split by head are not contiguous, and matmul would copy them in a slower order.
        scores = scale * asking.float() @ key.float().contiguous().transpose(-1, -2)
    if mask is None:
        return scores
    mask = mask.expand(*query.shape[:3], key.shape[2])
    mask = mask if rows is None else mask[:, :, rows]
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -math.inf)
    return scores + mask.float()


def _full_precision(device_type: str) -> AbstractContextManager:
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def spread_rows(
    num_rows: int, max_rows: int | None, device: torch.device
) -> Int[Tensor, " k"] | None:
    """Return the indices of ``max_rows`` query rows spread over the sequence, or None for all.

    Raises:
        ValueError: if ``max_rows`` is less than 1.
    """
    if max_rows is None:
        return None
    if max_rows < 1:
        raise ValueError(f"max_rows must be at least 1. Got {max_rows=}. Pass 32, or None for all.")
    if max_rows >= num_rows:
        return None
    # Golden-ratio steps, a low-discrepancy sequence: a fixed stride that divides the width of the
    # image in tokens would read the same columns of every image row.
    step = round(num_rows * GOLDEN)
    while math.gcd(step, num_rows) > 1:
        step += 1
    return torch.arange(max_rows, device=device) * step % num_rows


def map_entropy(
    attention: Float[Tensor, "r h n m"], *, epsilon: float = 0.0
) -> Float[Tensor, " r"]:
    """Entropy of a materialised attention map in nats, mean over heads and query rows.

    Args:
        epsilon: 0 for the exact entropy; above 0 for the DQAR talk's ``-sum A log(A + epsilon)``
            (slide 4, with 1e-6), which is lower by at most ``m * epsilon``.
    """
    attention = attention.float()
    if epsilon == 0.0:
        entropy = torch.special.entr(attention)
    else:
        entropy = -attention * (attention + epsilon).log()
    return entropy.sum(dim=-1).mean(dim=(1, 2))


def log_norm(latent: Float[Tensor, "b *axes"]) -> Float[Tensor, " b"]:
    """Natural logarithm of each sample's L2 norm."""
    return latent.float().flatten(1).norm(dim=1).clamp_min(1e-12).log()


def relative_error(
    value: Float[Tensor, "r *axes"], reference: Float[Tensor, "r *axes"]
) -> Float[Tensor, " r"]:
    """``||value - reference|| / ||reference||`` per row."""
    distance = (value - reference).float().flatten(1).norm(dim=1)
    return distance / reference.float().flatten(1).norm(dim=1).clamp_min(1e-12)
