"""Samplers and dtypes by name, and the sampling settings where neither a flag nor a policy nor the
model says otherwise. Imports nothing, so that ``--help`` is fast."""

from __future__ import annotations

from typing import Literal

Sampler = Literal["ddim", "dpm"]
"""Deterministic samplers: DDIM and DPM-Solver++."""
Dtype = Literal["fp32", "fp16", "bf16"]
"""Floating-point formats of a model's arithmetic."""
DTYPE: Dtype = "fp32"
"""Floating-point format."""
STEPS = 50
"""Sampling steps."""
SAMPLER: Sampler = "ddim"
"""Sampler."""
SITES = ("attn",)
"""Parts of the model whose values are reused."""
