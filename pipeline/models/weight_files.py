"""Weights of a model's folder by their headers: safetensors that hold what the configuration says.

A header states names, dtypes and shapes, so that a model is compared with its configuration before
anything of the sizes in the configuration is allocated.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from dqar.foreign_files import StoredTensor, read_tensors, require_file, spelled
from pipeline.errors import InputError
from pipeline.models.folder_documents import WeightIndex, read_document

FIX = "Save the model again with save_pretrained."
FLOATS = ("F64", "F32", "F16", "BF16")
"""Dtypes of weights that are loaded."""
BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")
OLDER_ATTENTION = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
"""Names of a VAE's attention in older files, which diffusers renames when it loads them."""


def read_weights(folder: Path, stem: str, model: str) -> dict[str, StoredTensor]:
    """Return the tensors of a part of a model without their values.

    Args:
        folder: folder of the part, such as ``transformer``.
        stem: name of the weights' file without ``.safetensors``.
        model: name of the model, for the error message.

    Raises:
        InputError: if the weights are missing, pickled, of whole numbers, or no safetensors.
    """
    index = folder / f"{stem}.safetensors.index.json"
    try:
        is_sharded = index.exists()
        shards = _shards_of(index, model) if is_sharded else {f"{stem}.safetensors": None}
        found: dict[str, StoredTensor] = {}
        for name, wanted in shards.items():
            tensors = read_tensors(folder / name)
            if wanted is not None and tensors.keys() != wanted:
                raise ValueError(f"{name} with other tensors than {index.name} names")
            found |= tensors
        _refuse_other_dtypes(found)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise refusal(model, folder, f"{error!s:.300}") from error
    return found


def _shards_of(index: Path, model: str) -> dict[str, set[str]]:
    """Return the tensors of each file that an index names; all files stand beside the index."""
    shards: dict[str, set[str]] = {}
    for tensor, name in read_document(index, WeightIndex, model).weight_map.items():
        if not re.fullmatch(r"[\w-][\w.-]{0,200}\.safetensors", name):
            raise ValueError(f"the file {name!r:.60} in {index.name}")
        shards.setdefault(name, set()).add(tensor)
    for name in shards:
        require_file(index.parent / name)
    return shards


def _refuse_other_dtypes(found: dict[str, StoredTensor]) -> None:
    for name, tensor in found.items():
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{tensor.dtype} in {name!r:.60}")


def count_blocks(found: dict[str, StoredTensor]) -> int:
    """Return the number of transformer blocks of which the weights hold tensors."""
    return len({match[1] for name in found if (match := BLOCK.match(name))})


def refuse_other_tensors(
    built: Any, found: dict[str, StoredTensor], folder: Path, model: str
) -> None:
    """Refuse weights that are not those of a model.

    Args:
        built: the model by its configuration, on the device ``meta``.
        found: the tensors of its weights.

    Raises:
        InputError: naming a tensor that is missing, too many or of another shape.
    """
    wanted = {name: tuple(value.shape) for name, value in built.state_dict().items()}
    # Older files hold buffers that are computed today.
    optional = {name for name, _ in built.named_buffers()}
    shapes = {_renamed(name, wanted): tensor.shape for name, tensor in found.items()}
    for name in sorted((wanted.keys() | shapes.keys()) - optional):
        if shapes.get(name) != wanted.get(name):
            raise refusal(
                model,
                folder,
                f"{name!r:.80} of {_described(shapes.get(name))} for a configuration with "
                f"{_described(wanted.get(name))}",
            )


def _renamed(name: str, wanted: dict[str, Any]) -> str:
    if name in wanted:
        return name
    for older, newer in OLDER_ATTENTION.items():
        if (renamed := name.replace(older, newer)) in wanted:
            return renamed
    return name


def _described(shape: tuple[int, ...] | None) -> str:
    return "no such tensor" if shape is None else f"shape {list(shape)!s:.60}"


def refuse_no_numbers(part: torch.nn.Module, folder: Path, model: str) -> None:
    """Refuse loaded weights that are NaN or infinite, also by a cast to 16 bits.

    Raises:
        InputError: naming the tensor.
    """
    for name, value in part.named_parameters():
        if not torch.isfinite(value).all():
            raise refusal(model, folder, f"NaN or infinite numbers as {value.dtype} in {name:.80}")


def refusal(model: str, folder: Path, got: str) -> InputError:
    """Return the refusal of a part's weights."""
    return InputError(
        f"--model {spelled(model)} must hold {folder.name} weights as safetensors that fit their "
        f"config.json. Got {got}. {FIX}"
    )
