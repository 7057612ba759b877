"""Parts of a model's folder beside its configurations: they exist, and fit one another."""

from __future__ import annotations

import os
from pathlib import Path

from dqar.foreign_files import spelled
from pipeline.errors import InputError
from pipeline.models.folder_documents import (
    FIX,
    ClassifierConfig,
    VaeConfig,
    read_document,
    read_json,
)
from pipeline.models.weight_files import count_blocks, read_weights, refusal

WEIGHTS = "diffusion_pytorch_model"
"""Name of diffusers' weights."""
OPTIONAL = ("vae", "classifier", "text_encoder")
"""Parts that a model may lack."""
IMAGE_CHANNELS = (1, 3, 4)
"""Channels of images that can be written as PNG."""
CLASSIFIED = (1, 8, 8)
"""Channels, height and width of the images that the digit classifier knows."""


def refuse_unfit_parts(
    folder: Path,
    model: str,
    *,
    latent_shape: tuple[int, int, int],
    num_layers: int,
    num_classes: int,
) -> None:
    """Refuse parts that do not fit the transformer's configuration; of weights, headers are read.

    Args:
        folder: folder of the model.
        model: name of the model, for the error message.
        latent_shape: channels, height and width of a latent.
        num_layers: transformer blocks.
        num_classes: classes, without the null class.

    Raises:
        InputError: one line that names the part and what does not fit.
    """
    _refuse_missing(folder, model)
    found = read_weights(folder / "transformer", WEIGHTS, model)
    if (blocks := count_blocks(found)) != num_layers:
        got = f"{blocks} transformer blocks for num_layers {num_layers}"
        raise refusal(model, folder / "transformer", got)
    image = latent_shape
    if (folder / "vae").is_dir():
        image = _image_of_vae(folder / "vae", model, latent_shape)
    if image[0] not in IMAGE_CHANNELS:
        raise InputError(
            f"--model {spelled(model)} must make images of 1, 3 or 4 channels. Got {image[0]}. "
            "Pass a model with its VAE."
        )
    if (folder / "classifier").is_dir():
        _refuse_other_classifier(folder / "classifier", model, image, num_classes)


def _refuse_missing(folder: Path, model: str) -> None:
    """Refuse a file in place of a part, and a missing VAE that ``model_index.json`` names."""
    for part in OPTIONAL:
        if os.path.lexists(folder / part) and not (folder / part).is_dir():
            raise InputError(
                f"--model {spelled(model)} must hold {part} as a folder. Got something else. {FIX}"
            )
    index = folder / "model_index.json"
    entry = read_json(index, model).get("vae") if os.path.lexists(index) else None
    is_named = isinstance(entry, list) and bool(entry) and entry[0] is not None
    if is_named and not (folder / "vae").is_dir():
        raise InputError(
            f"--model {spelled(model)} must hold the vae that its model_index.json names. Got no "
            f"such folder. {FIX}"
        )


def _image_of_vae(
    folder: Path, model: str, latent_shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Return channels, height and width of a decoded image."""
    config = folder / "config.json"
    if (kind := read_json(config, model).get("_class_name")) != "AutoencoderKL":
        raise InputError(
            f"--model {spelled(model)} must hold an AutoencoderKL as vae. Got {kind!r:.60}. {FIX}"
        )
    vae = read_document(config, VaeConfig, model)
    channels, height, width = latent_shape
    if vae.latent_channels != channels:
        raise InputError(
            f"--model {spelled(model)} must hold a vae for latents of {channels} channels. Got "
            f"latent_channels {vae.latent_channels}. {FIX}"
        )
    found = read_weights(folder, WEIGHTS, model)
    if vae.layers_per_block * len(vae.block_out_channels) > len(found):
        got = f"{len(found)} tensors for layers_per_block {vae.layers_per_block}"
        raise refusal(model, folder, got)
    return vae.out_channels, height * vae.upscale, width * vae.upscale


def _refuse_other_classifier(
    folder: Path, model: str, image: tuple[int, int, int], num_classes: int
) -> None:
    read_weights(folder, "model", model)
    config = read_document(folder / "config.json", ClassifierConfig, model)
    if image != CLASSIFIED or config.num_classes != num_classes:
        raise InputError(
            f"--model {spelled(model)} must hold a classifier of its images and classes. Got one "
            f"of {config.num_classes} classes and images of {CLASSIFIED} for {num_classes} classes "
            f"and images of {image}. Remove the folder classifier."
        )
