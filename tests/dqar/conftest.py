"""Fixtures: gate inputs for which every gate reuses, and a tiny DiT with a sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gate_table import GateTable
from dqar.gates.base import Gate
from dqar.integration import DQARDDIMSampler, DQARDiTWrapper, SamplerConfig
from dqar.records import FEATURES, GateInputs, GateRecord, Step


def inputs_of(
    num_sites: int = 1, num_layers: int = 3, num_samples: int = 2, **changes
) -> GateInputs:
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
        "span_before": torch.zeros(shape, dtype=torch.long),
        "order": torch.zeros(shape, dtype=torch.long),
        "feedback": torch.zeros(num_samples),
        "entropy": torch.ones(shape),
        "drift": torch.full(shape, 0.1),
        "quant_error": torch.full(shape, 0.01),
        "branch_gap": torch.full(shape, float("nan")),
        "branch_age": torch.ones(shape, dtype=torch.long),
        "log_latent_norm": torch.full((num_samples,), 2.0),
        "prompt_length": torch.full((num_samples,), 16.0),
        "share_attn": torch.full((num_samples,), 0.25),
        "share_ff": torch.full((num_samples,), 0.75),
    }
    return GateInputs(**(values | changes))


@pytest.fixture(scope="session")
def make_inputs():
    return inputs_of


class Ran:
    """A finished sampling run: its latents, its controller and its step records."""

    def __init__(
        self, latents: torch.Tensor, controller: DQARController, records: list[GateRecord]
    ) -> None:
        self.latents = latents
        self.controller = controller
        self.summary = controller.summary()
        self.records = records

    @property
    def features(self) -> torch.Tensor:
        return torch.stack([record.inputs.columns(FEATURES) for record in self.records])

    @property
    def reasons(self) -> torch.Tensor:
        return torch.stack([record.decision.reason for record in self.records])

    @property
    def local_errors(self) -> torch.Tensor:
        return torch.stack([record.local_rel_error for record in self.records])


class Rig:
    """A tiny model with scheduler, noise and labels, sampled in 6 steps at guidance scale 4."""

    layers, steps, samples = 3, 6, 3

    def __init__(self, model: Any, scheduler: Any) -> None:
        self.model = model
        self.scheduler = scheduler
        self.labels = torch.tensor([1, 4, 7])
        noise = torch.Generator().manual_seed(11)
        self.noise = torch.randn(self.samples, 1, 8, 8, generator=noise)

    @staticmethod
    def config(**changes: Any) -> DQARConfig:
        """A configuration of both sites with an unquantised cache."""
        values: dict[str, Any] = {"sites": ("attn", "ff"), "quantization_bits": 32}
        return DQARConfig(**(values | changes))

    def mask(self, config: DQARConfig, seed: int = 5) -> torch.Tensor:
        """A random reuse mask, ``[t, g, b]``."""
        columns = self.samples * (2 if config.branch_mode == "independent" else 1)
        gates = GateTable.regular(config.sites, self.layers).num_gates
        shape = (self.steps, gates, columns)
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5

    def wrap(self, config: DQARConfig, gate: Gate | None = None, **options) -> DQARDiTWrapper:
        return DQARDiTWrapper(self.model, controller=DQARController(config, gate=gate, **options))

    def sample(self, model: Any = None, *, chosen=slice(None), guidance=4.0, **options):
        """Latents of a wrapped model, or by default of the unpatched one."""
        config = SamplerConfig(num_inference_steps=self.steps, guidance_scale=guidance)
        sampler = DQARDDIMSampler(model or self.model, self.scheduler, config)
        latents, labels = self.noise[chosen], self.labels[chosen]
        return sampler.sample(len(labels), labels, latents=latents, **options)

    def run(self, config: DQARConfig, gate: Gate | None = None, **options) -> Ran:
        """Sample through a wrapper that records every step, then unpatch the model."""
        names = ("exposure", "balance", "forecast_order", "feedback")
        built = {name: options.pop(name) for name in names if name in options}
        records: list[GateRecord] = []
        wrapper = self.wrap(config, gate, sink=records.append, **built)
        latents = self.sample(wrapper, **options)
        wrapper.unpatch()
        return Ran(latents, wrapper.controller, records)


@pytest.fixture
def rig(tiny_dit, ddim):
    return Rig(tiny_dit, ddim)


@pytest.fixture
def rig_of():
    """Make a rig with another model or scheduler."""
    return Rig


@pytest.fixture
def pipe(ddim):
    """A random latent DiT of 1000 classes with learned sigmas, in diffusers' own pipeline."""
    from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=Rig.layers,
            sample_size=8,
            num_embeds_ada_norm=1000,
        )
        vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8)
    pipe = DiTPipeline(transformer=transformer.eval(), vae=vae.eval(), scheduler=ddim)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def images_of() -> Callable[..., torch.Tensor]:
    """Images of a pipeline for two labels and one random seed."""

    def call(pipe: Any, **options: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        return pipe(
            class_labels=[207, 360],
            num_inference_steps=Rig.steps,
            generator=generator,
            output_type="pt",
            **options,
        ).images

    return call


def distance_of(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Relative L2 distance of two tensors."""
    return ((value - reference).norm() / reference.norm()).item()


@pytest.fixture(scope="session")
def distance():
    return distance_of


def patches_of(model: torch.nn.Module) -> list[str]:
    """Modules whose ``forward`` is replaced on the instance, or that have hooks."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    return [
        name
        for name, module in model.named_modules()
        if "forward" in vars(module) or any(getattr(module, kind) for kind in hooks)
    ]


@pytest.fixture(scope="session")
def patches():
    return patches_of


@pytest.fixture
def dynamo():
    """Reset the state of dynamo before and after a test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs:
    """A backend of ``torch.compile`` that counts graphs and runs them operator by operator."""

    def __init__(self) -> None:
        self.count = 0
        self.targets: list[str] = []

    def __call__(self, graph, inputs):
        del inputs
        self.count += 1
        self.targets += [str(node.target) for node in graph.graph.nodes]
        return graph.forward


@pytest.fixture
def graphs():
    return Graphs()
