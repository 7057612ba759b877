"""Damaged model folders, and odd texts as --model."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.cases import Case
from tests.fuzz.mutations import ODD, Change, damage_json, encode, replace_file
from tests.fuzz.weight_files import damage_weights

KIND = "model folder"
TEXTS = (
    *("", " ", ".", "..", "/", "//", "~", "a/b/c", "a/..", "../..", "a--b/c", "-/x", "a/b.git"),
    *("x" * 300, "x/" + "y" * 300, "/" + "x" * 5000, "digits\x00", "a\nb", "\x1b[31m/x", "é/ü"),
    *("http://x/y", "s3://x/y", "none/such", "/dev/zero", "/etc/passwd", "/proc/self/fd/0"),
)
"""Texts that name no model."""
SCHEDULERS = {
    "num_train_timesteps": [0, -1, 1, 2, 10**9, 10**12, 2**63, None, 1.5],
    "beta_start": [0, -1, 1, 2, 1e300, None, "0.1"],
    "beta_end": [0, -1, 1, 2, 1e300, None, "0.1"],
    "beta_schedule": ["", "x", "linear", "exp", "sigmoid", "scaled_linear", None, 3],
    "trained_betas": [[], [0.1], [0.1] * 1000, [2.0] * 1000, "x", [None]],
    "steps_offset": [1, -1, 10, 999, 1000, 10**9, 10**12, None],
    "timestep_spacing": ["leading", "trailing", "linspace", "x", None, 3],
    "prediction_type": ["epsilon", "sample", "v_prediction", "flow_prediction", "x", None],
    "clip_sample_range": [0, -1, 1e300, None],
    "solver_order": [0, -1, 4, 10**9, "2"],
    "thresholding": [True, "yes", None],
    "rescale_betas_zero_snr": [True, 1, None],
    "use_karras_sigmas": [True],
    "use_flow_sigmas": [True],
}
"""Numbers of a scheduler that are absurd or unusual."""
TRANSFORMERS = {
    "num_layers": [0, -1, 1, 3, 2**40, 10**12],
    "num_attention_heads": [0, 1, 3, 2**20, 2**40],
    "attention_head_dim": [0, 1, 3, 2**20, 2**40],
    "num_embeds_ada_norm": [0, 1, 11, 2**31, 2**40],
    "in_channels": [0, 2, 3, 2**20, 2**40],
    "out_channels": [0, 2, 3, 2**20, 2**40],
    "sample_size": [0, -8, 1, 3, 7, 2**16, 2**40, [8, 8]],
    "patch_size": [0, 1, 3, 8, 16, 2**40],
    "norm_type": ["ada_norm", "layer_norm", None],
    "norm_eps": [0, -1, 10, 1e300],
    "dropout": [-1, 2, 1e300],
    "activation_fn": ["geglu", "x", "", None],
    "_class_name": [
        *("UNet2DModel", "Transformer2DModel", "AutoencoderKL", "PixArtTransformer2DModel"),
        *("DDIMScheduler", "os.system", "", None, ["DiTTransformer2DModel"]),
    ],
}
"""Fields of a transformer that do not fit its weights, or that no transformer has."""
SIZES = ("num_layers", "num_embeds_ada_norm", "in_channels", "patch_size")
"""Fields that the weights of a model tell, so that another value is silently wrong."""
VAES = {
    "latent_channels": [0, 1, 3, 2**40],
    "in_channels": [0, 1, 2**40],
    "out_channels": [0, 1, 2, 5, 2**40],
    "block_out_channels": [[], [0], [4], [8, 8, 8], [2**30, 2**30], [8] * 1000, 8],
    "layers_per_block": [0, -1, 2, 2**40],
    "norm_num_groups": [0, 3, 2**40],
    "scaling_factor": [0, -1, 1e300, None],
    "down_block_types": [[], ["x"], ["DownEncoderBlock2D"]],
    "act_fn": ["x", None],
    "latents_mean": [[0.0] * 4],
}
"""Fields of a VAE that do not fit its weights, or that no VAE has."""
CLASSIFIERS = {
    "num_features": [0, -1, 63, 2**40, None],
    "num_classes": [0, 9, 11, 2**40],
}
"""Fields of a classifier that do not fit its weights."""
TARGETS = {
    "scheduler/scheduler_config.json": SCHEDULERS,
    "transformer/config.json": TRANSFORMERS,
    "vae/config.json": VAES,
    "classifier/config.json": CLASSIFIERS,
}


def write_models(folder: Path) -> list[Path]:
    """Write three small models: pixels with a classifier, latents with a VAE, in several files."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

    from pipeline.models.digits_classifier import DigitClassifier, save_classifier

    sizes: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "sample_size": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": 10,
    }
    pixels, latents, sharded = (folder / name for name in ("pixels", "latents", "sharded"))
    transformer = DiTTransformer2DModel(in_channels=1, out_channels=1, **sizes)
    transformer.save_pretrained(pixels / "transformer")
    save_classifier(DigitClassifier(num_features=4), pixels / "classifier")
    (pixels / "provenance.json").write_text('{"recommended": {"guidance_scale": 2.0}}\n')
    transformer.save_pretrained(sharded / "transformer", max_shard_size="20KB")
    DiTTransformer2DModel(in_channels=4, out_channels=8, **sizes).save_pretrained(
        latents / "transformer"
    )
    build_vae: Any = AutoencoderKL
    build_vae(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    ).save_pretrained(latents / "vae")
    (latents / "model_index.json").write_text('{"vae": ["diffusers", "AutoencoderKL"]}\n')
    for one in (pixels, latents, sharded):
        DDIMScheduler(clip_sample=False).save_pretrained(one / "scheduler")
    return [pixels, latents, sharded]


def arguments(rng: random.Random, model: str) -> tuple[str, tuple[str, ...]]:
    """Draw a job that reads a model, with its arguments."""
    job, flags = rng.choice(
        [
            ("sample", ("--out", "out", "--num-samples", "1", "--steps", "4")),
            ("sample", ("--out", "out", "--num-samples", "1", "--steps", "4", "--sampler=dpm")),
            ("sample", ("--out", "out", "--num-samples", "1", "--steps", "1000")),
            ("collect", ("--out", "out", "--num-trajectories", "2", "--steps", "4")),
            ("evaluate", ("--out", "out", "--methods", "interval", "--steps", "4")),
        ]
    )
    # With =, so that a text that begins with a dash is the flag's value.
    return job, (f"--model={model}", *flags)


def cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Yield jobs with a damaged model folder or an odd text as --model."""
    models = write_models(folder / "valid")
    for place in itertools.count():
        if rng.random() < 0.1:
            text = rng.choice(TEXTS)
            job, args = arguments(rng, text.replace("\x00", "%00"))
            yield Case(kind=KIND, job=job, args=args, note=f"--model {text!r:.60}")
            continue
        copied = Path(shutil.copytree(rng.choice(models), folder / str(place)))
        change = damage(rng, copied)
        job, args = arguments(rng, str(copied))
        # Drivers of workers read headers; sample.py alone reads the values.
        is_damaged = change.is_damaged and (job == "sample" or "holds" not in change.note)
        yield Case(kind=KIND, job=job, args=args, note=change.note, is_damaged=is_damaged)
        shutil.rmtree(copied, ignore_errors=True)


def damage(rng: random.Random, model: Path) -> Change:
    """Damage one file or part of a model folder."""
    files = sorted(path for path in model.rglob("*") if path.is_file())
    kind = rng.choice(["field", "field", "json", "json", "weights", "file", "part", "index"])
    if kind == "field":
        return _change_field(rng, model)
    if kind == "json":
        return damage_json(rng, rng.choice([path for path in files if path.suffix == ".json"]))
    if kind == "weights":
        return damage_weights(
            rng, rng.choice([path for path in files if path.suffix == ".safetensors"])
        )
    if kind == "index":
        return _change_index(rng, model, files)
    if kind == "part":
        return replace_file(rng, rng.choice(sorted(path for path in model.iterdir())))
    return replace_file(rng, rng.choice(files))


def _change_field(rng: random.Random, model: Path) -> Change:
    name = rng.choice(sorted(name for name in TARGETS if (model / name).exists()))
    field = rng.choice(sorted(TARGETS[name]))
    value = rng.choice([*TARGETS[name][field], *TARGETS[name][field], rng.choice(ODD)])
    path = model / name
    stored = json.loads(path.read_text())
    is_other = name == "transformer/config.json" and field in SIZES and stored[field] != value
    path.write_bytes(encode(stored | {field: value}))
    return Change(note=f"{name}: {field} is {value!r:.40}", is_damaged=is_other)


def _change_index(rng: random.Random, model: Path, files: list[Path]) -> Change:
    indices = [path for path in files if path.name.endswith(".index.json")]
    if not indices:
        return _change_class(rng, model)
    path = indices[0]
    stored = json.loads(path.read_text())
    tensor = rng.choice(sorted(stored["weight_map"]))
    name = rng.choice(
        [
            *("../../../../etc/passwd", "/etc/passwd", "", "x.safetensors", "config.json", "."),
            *(3, None, ["x"], "../transformer/" + stored["weight_map"][tensor], "x\x00y"),
        ]
    )
    stored["weight_map"][tensor] = name
    path.write_text(json.dumps(stored))
    return Change(note=f"index: {tensor} in {name!r}", is_damaged=True)


def _change_class(rng: random.Random, model: Path) -> Change:
    import diffusers

    names = sorted(name for name in dir(diffusers) if name.endswith("Scheduler"))
    name = rng.choice(names)
    path = model / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))
    return Change(note=f"scheduler {name}")
