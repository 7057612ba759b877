"""Error feedback: what reuse left out of the model's output, made up for at the next computation.

A step that reuses shows an approximate output ``o_t``. When the model is next computed in full,
``k`` steps after the last time, its outputs at both ends of the stretch are known, and the
trapezoid between them says better than was known at the time what it should have added up to:

    missing = (k - 1) / 2 * (o_last + o_now) - sum of o_t,

and the sampler is shown ``o_now + gain * missing``. Gradient compression feeds its errors back
likewise (Seide et al. 2014, Interspeech; Karimireddy et al. 2019, arXiv 1901.09847); samplers are
linear in the model's output from step to step, with weights that change slowly. A gain of 1 would
be right if nothing else mended errors; what is best is less, and another for each order of
forecasts (docs/LOG.md, 2026-11-22), perhaps since a denoiser removes part of an error as noise.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Gain = float | Float[Tensor, " b"]
"""Share of the missing sum that is fed back, one for all samples or one a sample."""


class ErrorFeedback:
    """The outputs of one run, row by row: the last full one, and the sum of those after it.

    A stretch is made up for where each of its stale steps reused everything. Where some gates
    compute and others reuse, outputs are nearly right and full steps far between: the trapezoid
    over so many steps would be the worse account (docs/LOG.md), so such a step ends the stretch.

    Args:
        gain: from 0, which changes nothing and keeps nothing, to 1.
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
        """Bytes of what is kept."""
        return sum(kept.nbytes for kept in (self._last, self._sum) if kept is not None)

    def through(
        self, output: Float[Tensor, "r *axes"], share: Float[Tensor, " b"]
    ) -> Float[Tensor, "r *axes"]:
        """What the sampler is shown in place of the model's output.

        Args:
            output: of all guidance branches, branch-major; not written to.
            share: of each sample's gates that reused in this step; 0 in the first.
        """
        if not self.is_on:
            return output
        if self._last is None:
            self._last, self._stale = output.clone(), torch.zeros(len(share), dtype=torch.long)
            self._is_broken = self._stale > 0
            return output
        is_stale = share > 0.0
        shown = output if bool(is_stale.all()) else self._made_up(output, self._last, ~is_stale)
        self._keep(output, self._last, is_stale)
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
        """Rows that were computed begin anew; of the others the outputs are added up, in 32 bits
        at least, since they are many and nearly alike."""
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
    """One number where samples agree, which the device needs no copy of."""
    if bool((by_sample == by_sample[0]).all()):
        return float(by_sample[0])
    return _by_row(by_sample.to(_exact(output)), output)


def _by_row(by_sample: Tensor, output: Tensor) -> Tensor:
    """A value by sample in the axes of an output of all branches."""
    by_row = by_sample.repeat(len(output) // len(by_sample))
    return by_row.to(output.device, non_blocking=True).view(-1, *(1,) * (output.ndim - 1))
