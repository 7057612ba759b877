"""Loading of a model's weights and schedulers through diffusers, which only this module does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.integration.noise_schedules import convert_scheduler
from pipeline.errors import InputError
from pipeline.models.model_info import ModelInfo, read_json
from pipeline.models.sampling_choices import Dtype, Sampler

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
DECODED_AT_ONCE = 8
"""Latents that a VAE decodes in one batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """Loaded model, ready to sample."""

    info: ModelInfo
    """Description of the model."""
    transformer: Any
    """``DiTTransformer2DModel`` in eval mode, without gradients."""
    scheduler: Any
    """Scheduler of the requested sampler with the model's noise schedule."""
    vae: Any | None
    """``AutoencoderKL``; None for a model in pixel space."""
    classifier: Any | None
    """Digit classifier from the model's folder; None if there is none."""

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b channels H W"]:
        """Decode latents to images in [-1, 1]; a model in pixel space only clamps them."""
        if self.vae is None:
            return latents.float().clamp(-1, 1)
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        # In small batches, since the activations of a decoder are far larger than the latents.
        images = [self.vae.decode(few).sample.float() for few in scaled.split(DECODED_AT_ONCE)]
        return torch.cat(images).clamp(-1, 1)

    @torch.no_grad()
    def features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"] | None:
        """Return features of images for FID; None if the model has no classifier."""
        if self.classifier is None:
            return None
        return self.classifier.features(images)

    @torch.no_grad()
    def label_accuracy(self, images: Tensor, labels: Int[Tensor, " b"]) -> float | None:
        """Return the share of images classified as their label; None without a classifier."""
        if self.classifier is None:
            return None
        return (self.classifier(images).argmax(dim=1) == labels).float().mean().item()


def load_model(info: ModelInfo, *, sampler: Sampler, dtype: Dtype, device: str) -> LoadedModel:
    """Load the weights and the scheduler of a model.

    Args:
        info: description of the model.
        sampler: sampler whose scheduler is loaded.
        dtype: floating-point type of the weights.
        device: device of the weights.

    Raises:
        InputError: if the weights cannot be read.
    """
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    torch_dtype = TORCH_DTYPES[dtype]
    folder = info.folder

    def load(kind: Any, part: str) -> Any:
        # diffusers otherwise looks for pickled weights where there are no safetensors.
        options = {"torch_dtype": torch_dtype, "use_safetensors": True}
        loaded = kind.from_pretrained(folder / part, **options)
        return loaded.to(device).eval().requires_grad_(False)

    with _refusing_what_is_broken(info):
        transformer = load(DiTTransformer2DModel, "transformer")
        vae = load(AutoencoderKL, "vae") if (folder / "vae").is_dir() else None
        classifier = _load_classifier(folder, device)
    scheduler = load_scheduler(info, sampler)
    return LoadedModel(
        info=info,
        transformer=transformer,
        scheduler=scheduler,
        vae=vae,
        classifier=classifier,
    )


def load_scheduler(info: ModelInfo, sampler: Sampler) -> Any:
    """Load the scheduler of a deterministic sampler with the model's own noise schedule.

    Raises:
        InputError: if it cannot be read, or the sampler cannot take it over.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    kinds = {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler}
    try:
        return convert_scheduler(kinds[sampler], saved_scheduler(info))
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"--model {info.name} with --sampler {sampler}: {error}") from error


def scheduler_of_run(info: ModelInfo, sampler: Sampler, steps: int) -> Any:
    """Load the scheduler of a model and set its timesteps; the weights are not loaded.

    Args:
        info: description of the model.
        sampler: sampler whose scheduler is loaded.
        steps: sampling steps.

    Raises:
        InputError: if the scheduler cannot be read, or cannot take that many steps.
    """
    scheduler = load_scheduler(info, sampler)
    with _refusing_what_is_broken(info):
        scheduler.set_timesteps(steps)
    return scheduler


@contextmanager
def _refusing_what_is_broken(info: ModelInfo) -> Iterator[None]:
    try:
        yield
    # Broken configurations make diffusers raise whatever Python raises, such as ZeroDivisionError.
    except Exception as error:
        raise InputError(
            f"--model {info.name} must load with diffusers. Got: {str(error)[:300]}. "
            "Save the model again with save_pretrained."
        ) from error


def saved_scheduler(info: ModelInfo) -> Any:
    """Load the scheduler that the model's folder names, of any class of diffusers.

    Raises:
        InputError: if diffusers has no such scheduler, or if the folder cannot be read.
    """
    import diffusers

    config = read_json(info.folder / "scheduler" / "scheduler_config.json", info.name)
    name = str(config.get("_class_name"))
    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if kind is None:
        raise InputError(
            f"--model {info.name} must name a scheduler of diffusers. Got {name!r:.60}. Save the "
            "model again with save_pretrained."
        )
    with _refusing_what_is_broken(info):
        return kind.from_config(config)


def _load_classifier(folder: Path, device: str) -> Any | None:
    if not (folder / "classifier").is_dir():
        return None
    from pipeline.models.digits_classifier import load_classifier

    return load_classifier(folder / "classifier").to(device)


def pick_device() -> str:
    """Return ``cuda`` if this process has a GPU, otherwise ``cpu``.

    On the CPU torch is limited to one thread. Then workers on one machine do not compete for cores,
    and sums do not depend on the number of threads.
    """
    if torch.cuda.is_available():
        return "cuda"
    torch.set_num_threads(1)
    return "cpu"
