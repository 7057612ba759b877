"""Objective of a search: the mean log error over noise samples.

Errors of one schedule have heavy tails: the worst tenth of the samples holds a third of the mean.
The ranking by the mean of few samples is therefore decided by one or two of them. The mean log, the
logarithm of the geometric mean, is not (docs/LOG.md has the comparison). Schedules are compared on
the same noise samples (common random numbers), so that what a noise sample adds to all cancels.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

LEAST_ERROR = 1e-9
"""Errors below it count as equal to it, so that the logarithm is finite."""
LARGEST_ERROR = 1e3
"""Error of a sample that diverged."""


def log_errors(errors: Float[Tensor, "*n samples"]) -> Float[Tensor, "*n samples"]:
    """Return the logarithms of errors; a sample that diverged counts as an error of 1,000."""
    known = errors.nan_to_num(nan=LARGEST_ERROR, posinf=LARGEST_ERROR)
    return known.clamp(LEAST_ERROR, LARGEST_ERROR).log()


def objective(errors: Float[Tensor, "n samples"]) -> Float[Tensor, " n"]:
    """Return the mean log error of each schedule; smaller is better."""
    return log_errors(errors).mean(dim=-1)


def paired_difference(
    errors: Float[Tensor, " samples"], other: Float[Tensor, " samples"]
) -> tuple[float, float]:
    """Return the mean and the standard error of the difference of log errors, sample by sample."""
    difference = log_errors(errors) - log_errors(other)
    if len(difference) < 2:
        return float(difference.mean()), math.inf
    return float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))
