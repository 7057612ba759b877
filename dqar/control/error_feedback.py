"""Error feedback: correct the model's output for the estimated error of the steps that reused.

A step that reuses gives an approximate output ``o_t``. When the model is next computed in full,
``k`` steps after the previous full computation, its outputs at both ends of the stretch are known.
The trapezoidal rule between them estimates the sum of the exact outputs of the ``k - 1`` steps
between, so that the missing part of that sum is about

    missing = (k - 1) / 2 * (o_last + o_now) - sum of o_t,

and the sampler receives ``o_now + gain * missing``. Error feedback is used in gradient compression
(Seide et al. 2014, Interspeech; Karimireddy et al. 2019, arXiv 1901.09847). It applies here because
a sampler is linear in the model's output, with weights that change slowly from step to step. The
best measured gain is below 1 and differs between forecast orders (docs/LOG.md, 2026-11-22); a
possible reason is that the denoiser itself removes part of an error as noise.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Gain = float | Float[Tensor, " b"]
"""Share of the missing sum that is added back, one number or one for each sample."""


class ErrorFeedback:
    """The error feedback of one run: by batch row, the last fully computed output and the sum of
    the approximate outputs since.

    A stretch of steps is corrected only if each of its steps reused every gate. A step in which
    some gates compute has a nearly exact output, and full computations are then far apart, so that
    the trapezoidal rule would be less accurate than the outputs (docs/LOG.md). Such a step
    excludes its stretch from correction.

    Args:
        gain: from 0, which corrects nothing and stores nothing, to 1.
    """

    def __init__(self, gain: Gain) -> None:
        self.gain = gain.double().cpu() if isinstance(gain, Tensor) else gain
        self.is_on = bool(torch.as_tensor(gain).any())
        self._last: Tensor | None = None
        self._sum: Tensor | None = None
        self._stale = torch.zeros(1, dtype=torch.long)
        self._is_broken = torch.zeros(1, dtype=torch.bool)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored outputs."""
        return sum(kept.nbytes for kept in (self._last, self._sum) if kept is not None)

    def through(
        self, output: Float[Tensor, "r *axes"], share: Float[Tensor, " b"]
    ) -> Float[Tensor, "r *axes"]:
        """Return the corrected output of a step.

        Args:
            output: the model's output for all guidance branches, branch-major; not written to.
            share: share of each sample's gates that reused in this step; 0 in the first step.
        """
        if not self.is_on:
            return output
        # Detached, as cached values are: a step's gradient takes earlier steps as constants.
        known = output.detach()
        if self._last is None:
            self._last, self._stale = known.clone(), torch.zeros(len(share), dtype=torch.long)
            self._is_broken = self._stale > 0
            return output
        is_stale = share > 0.0
        shown = output if bool(is_stale.all()) else self._made_up(output, self._last, ~is_stale)
        self._keep(known, self._last, is_stale)
        self._stale = torch.where(is_stale, self._stale + 1, 0)
        self._is_broken = is_stale & (self._is_broken | (share < 1.0))
        return shown

    def _made_up(self, output: Tensor, last: Tensor, is_fresh: Bool[Tensor, " b"]) -> Tensor:
        is_due = is_fresh & (self._stale > 0) & ~self._is_broken
        if self._sum is None or not bool(is_due.any()):
            return output
        gains = torch.as_tensor(self.gain).double() * is_due
        half, whole = _factor(gains * self._stale / 2, output), _factor(gains, output)
        exact = _exact(output)
        missing = (last.to(exact) + output.to(exact)) * half - self._sum * whole
        return (output.to(exact) + missing).to(output.dtype)

    def _keep(self, output: Tensor, last: Tensor, is_stale: Bool[Tensor, " b"]) -> None:
        """Store the output of each fully computed row and reset its sum; add the output of every
        other row to its sum, in float32 or wider, since many nearly equal numbers are added."""
        if not bool(is_stale.any()):
            last.copy_(output)
            self._sum = None
            return
        if self._sum is None:
            self._sum = torch.zeros_like(output, dtype=_exact(output))
        if bool(is_stale.all()):
            self._sum += output
            return
        stale = _by_row(is_stale, output)
        self._last = torch.where(stale, last, output)
        self._sum = torch.where(stale, self._sum + output, 0.0)


def _exact(output: Tensor) -> torch.dtype:
    return torch.promote_types(output.dtype, torch.float32)


def _factor(by_sample: Float[Tensor, " b"], output: Tensor) -> float | Tensor:
    """Return a Python number if all samples have the same factor, which saves a copy to the
    device, else one factor for each row."""
    if bool((by_sample == by_sample[0]).all()):
        return float(by_sample[0])
    return _by_row(by_sample.to(_exact(output)), output)


def _by_row(by_sample: Tensor, output: Tensor) -> Tensor:
    """Repeat a value by sample for all branches, and broadcast it over the axes of ``output``."""
    by_row = by_sample.repeat(len(output) // len(by_sample))
    return by_row.to(output.device, non_blocking=True).view(-1, *(1,) * (output.ndim - 1))
