"""A signal that every gate lets through; a test spoils the part it is about."""

from __future__ import annotations

import pytest
import torch

from dqar.records import Signal, Step


def signal_of(num_sites: int = 1, num_layers: int = 3, num_samples: int = 2, **changes) -> Signal:
    shape = (num_sites * num_layers, num_samples)
    values = {
        "step": Step(index=5, total=10, timestep=500.0, snr=1.0),
        "num_layers": num_layers,
        "site": torch.arange(num_sites).repeat_interleave(num_layers),
        "layer": torch.arange(num_layers).repeat(num_sites),
        "cached": torch.ones(shape, dtype=torch.bool),
        "gap": torch.ones(shape, dtype=torch.long),
        "reuses": torch.zeros(shape, dtype=torch.long),
        "span": torch.ones(shape, dtype=torch.long),
        "entropy": torch.ones(shape),
        "drift": torch.full(shape, 0.1),
        "quant_error": torch.full(shape, 0.01),
        "log_latent_norm": torch.full((num_samples,), 2.0),
        "prompt_length": torch.full((num_samples,), 16.0),
        "share_attn": torch.full((num_samples,), 0.25),
        "share_ff": torch.full((num_samples,), 0.75),
    }
    return Signal(**(values | changes))


@pytest.fixture(scope="session")
def make_signal():
    return signal_of
