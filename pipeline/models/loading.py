"""Loading of a model's weights through diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.models.broken_folders import refusing_what_is_broken
from pipeline.models.folder_documents import read_json
from pipeline.models.folder_parts import WEIGHTS
from pipeline.models.model_info import DIGITS, ModelInfo
from pipeline.models.sampling_choices import Dtype, Sampler
from pipeline.models.schedulers import load_scheduler, scheduler_of_run
from pipeline.models.weight_files import read_weights, refuse_no_numbers, refuse_other_tensors

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
        config = self.vae.config
        unscaled = latents / config.scaling_factor + (config.shift_factor or 0.0)
        scaled = unscaled.to(self.vae.dtype)
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
        InputError: if the weights cannot be read, do not fit their configuration, or are no finite
            numbers in this dtype.
    """
    folder = info.folder
    _refuse_other_weights(info)

    def load(part: str) -> Any:
        # diffusers otherwise looks for pickled weights where there are no safetensors.
        options = {"torch_dtype": TORCH_DTYPES[dtype], "use_safetensors": True}
        loaded = _class_of(part).from_pretrained(folder / part, **options)
        refuse_no_numbers(loaded, folder / part, info.name)
        return loaded.to(device).eval().requires_grad_(False)

    with refusing_what_is_broken(info):
        parts = {part: load(part) for part in parts_of(info)}
        classifier = _load_classifier(folder, device)
        if classifier is not None:
            refuse_no_numbers(classifier, folder / "classifier", info.name)
    return LoadedModel(
        info=info,
        transformer=parts["transformer"],
        scheduler=load_scheduler(info, sampler),
        vae=parts.get("vae"),
        classifier=classifier,
    )


def refuse_unloadable(info: ModelInfo, sampler: Sampler, steps: int) -> None:
    """Refuse a model that cannot be loaded or sampled, before any of its weights are read.

    Args:
        info: description of the model.
        sampler: sampler of the run.
        steps: sampling steps of the run.

    Raises:
        InputError: if the weights' header does not fit the configuration, or the scheduler cannot
            take that many steps.
    """
    if info.folder == DIGITS:  # spares a driver the import of diffusers
        return
    _refuse_other_weights(info)
    with refusing_what_is_broken(info):
        _load_classifier(info.folder, "cpu")  # of some hundred kilobytes
    scheduler_of_run(info, sampler, steps)


def parts_of(info: ModelInfo) -> list[str]:
    """Return the parts that diffusers loads, which are sub-folders of the model's."""
    return ["transformer", *(["vae"] if (info.folder / "vae").is_dir() else [])]


def _class_of(part: str) -> Any:
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    return {"transformer": DiTTransformer2DModel, "vae": AutoencoderKL}[part]


def _refuse_other_weights(info: ModelInfo) -> None:
    """Compare each configuration with the weights' header, on a device without memory."""
    for part in parts_of(info):
        folder = info.folder / part
        config = read_json(folder / "config.json", info.name)
        with refusing_what_is_broken(info), torch.device("meta"):
            built = _class_of(part).from_config(config)
        found = read_weights(folder, WEIGHTS, info.name)
        refuse_other_tensors(built, found, folder, info.name)


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
