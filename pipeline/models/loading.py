"""Loading of a model's weights and schedulers through diffusers, which only this module does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.foreign_files import spelled
from dqar.integration.noise_schedules import convert_scheduler
from pipeline.errors import InputError
from pipeline.models.folder_documents import read_json
from pipeline.models.folder_parts import WEIGHTS
from pipeline.models.model_info import DIGITS, ModelInfo
from pipeline.models.sampling_choices import Dtype, Sampler
from pipeline.models.weight_files import read_weights, refuse_no_numbers, refuse_other_tensors

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CLASS_TEXT = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
"""A class as Python prints it."""
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

    with _refusing_what_is_broken(info):
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
    with _refusing_what_is_broken(info):
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
        with _refusing_what_is_broken(info), torch.device("meta"):
            built = _class_of(part).from_config(config)
        found = read_weights(folder, WEIGHTS, info.name)
        refuse_other_tensors(built, found, folder, info.name)


def load_scheduler(info: ModelInfo, sampler: Sampler) -> Any:
    """Load the scheduler of a deterministic sampler with the model's own noise schedule.

    Raises:
        InputError: if it cannot be read, or the sampler cannot take it over.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    kinds = {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler}
    try:
        scheduler = convert_scheduler(kinds[sampler], saved_scheduler(info))
        _refuse_odd_noise(scheduler)
        return scheduler
    except InputError:
        raise
    except (ValueError, NotImplementedError) as error:
        raise InputError(
            f"--model {spelled(info.name)} with --sampler {sampler}: {error}"
        ) from error


def _refuse_odd_noise(scheduler: Any) -> None:
    kept = scheduler.alphas_cumprod
    is_share = bool(((kept >= 0) & (kept <= 1)).all())  # False where one is NaN
    is_whole = len(kept) == scheduler.config.num_train_timesteps
    if not (is_share and is_whole) or (kept.diff() > 0).any() or kept[0] == 0:
        raise ValueError(
            "The scheduler must keep a share of the signal that falls from at most 1 to at least 0 "
            "over its num_train_timesteps. Got other betas. Save the scheduler again."
        )


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
        _refuse_odd_timesteps(scheduler, steps)
    return scheduler


def _refuse_odd_timesteps(scheduler: Any, steps: int) -> None:
    timesteps = torch.as_tensor(scheduler.timesteps).double()
    most = scheduler.config.num_train_timesteps - 1
    is_within = len(timesteps) == steps and bool(((timesteps >= 0) & (timesteps <= most)).all())
    if not is_within or (timesteps.diff() >= 0).any():
        raise InputError(
            f"The scheduler must have {steps} falling timesteps from {most} to 0. Got others from "
            "its timestep_spacing and steps_offset. Pass fewer --steps."
        )


@contextmanager
def _refusing_what_is_broken(info: ModelInfo) -> Iterator[None]:
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    # diffusers logs keys that it ignores and its progress, beside the one line of a refusal.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except InputError as error:
        if str(error).startswith("--model"):
            raise
        raise InputError(f"--model {spelled(info.name)}: {error}") from error
    # Broken configurations make diffusers raise whatever Python raises, such as ZeroDivisionError.
    except Exception as error:
        reason = CLASS_TEXT.sub(r"\1", str(error))[:300] or type(error).__name__
        raise InputError(
            f"--model {spelled(info.name)} must load with diffusers. Got: {reason}. "
            "Save the model again with save_pretrained."
        ) from error
    finally:
        logging.set_verbosity(verbosity)


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
            f"--model {spelled(info.name)} must name a scheduler of diffusers. Got {name!r:.60}. "
            "Save the model again with save_pretrained."
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
