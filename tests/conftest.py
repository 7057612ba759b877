"""What every test shares: a home of its own, no network, one thread, a tiny model."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest
from hypothesis import settings

# Set before any library reads them: nothing may touch the user's home or the network.
# Short, since Ray's sockets have long names under it and a limit of 107 bytes.
HOME = tempfile.mkdtemp(prefix="dq-")
os.environ |= {
    "HOME": HOME,
    "RAY_TMPDIR": HOME,
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
}

# Derandomised, so that a red run is red again; no database, so that no files appear.
settings.register_profile("quick", deadline=None, max_examples=25, derandomize=True, database=None)
settings.load_profile("quick")


def pytest_configure(config):
    import torch

    torch.set_num_threads(1)


def pytest_unconfigure(config):
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def tiny_dit():
    """A random DiT of 3 blocks, 16 tokens and 10 classes whose adaLN gates are not zero."""
    import torch
    from diffusers import DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=1,
            out_channels=1,
            num_layers=3,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
        )
        for name, weight in model.named_parameters():
            if "norm1.linear" in name:
                torch.nn.init.normal_(weight, std=0.4)
    return model.eval().requires_grad_(False)


@pytest.fixture
def ddim():
    """A DDIM scheduler that leaves values outside [-1, 1] alone."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(num_train_timesteps=1000, clip_sample=False)
