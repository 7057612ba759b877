"""Folders whose parts do not fit one another are refused before anything is built."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel
from safetensors.torch import load_file, save_file

from pipeline.errors import InputError
from pipeline.models.loading import load_model, refuse_unloadable
from pipeline.models.model_info import DIGITS, find_model
from pipeline.models.sampling_choices import Sampler

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def small_latent(tmp_path_factory):
    """Folder of a small DiT in latents of 4 channels, with its VAE."""
    folder = tmp_path_factory.mktemp("small") / "latent"
    sizes: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
    DiTTransformer2DModel(
        in_channels=4, sample_size=8, patch_size=2, num_embeds_ada_norm=10, **sizes
    ).save_pretrained(folder / "transformer")
    build_vae: Any = AutoencoderKL
    build_vae(block_out_channels=(8,), latent_channels=4, norm_num_groups=4).save_pretrained(
        folder / "vae"
    )
    DDIMScheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text('{"vae": ["diffusers", "AutoencoderKL"]}')
    return folder


@pytest.fixture
def latent(small_latent, tmp_path):
    """Copy of it, to be damaged."""
    return shutil.copytree(small_latent, tmp_path / "latent")


@pytest.fixture
def digits_copy(tmp_path):
    return shutil.copytree(DIGITS, tmp_path / "digits")


def change(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder, sampler: Sampler = "ddim", steps=4):
    """The line that a job's checks answer with, before weights are read."""
    with pytest.raises(InputError, match=r"^--model ") as caught:
        refuse_unloadable(find_model(str(folder)), sampler, steps)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# NumPy warns of how diffusers' schedulers hand it tensors.
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
def test_a_sound_folder_passes(latent, digits_copy):
    for folder in (latent, digits_copy):
        refuse_unloadable(find_model(str(folder)), "dpm", 4)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"num_layers": 7}, "8 transformer blocks for num_layers 7"),
        ({"num_layers": 2**40}, "num_layers must be at least 1 and below"),
        ({"num_embeds_ada_norm": 2**30}, "of 10 classes .* for 1073741824 classes"),
        ({"attention_head_dim": 2**20}, "shape"),
        ({"attention_head_dim": 2**30}, "must load with diffusers"),
        ({"in_channels": 3}, "out_channels must be"),
        ({"sample_size": 2**20}, "sample_size must be from 1 to 1024"),
        ({"sample_size": 7}, "multiple of patch_size"),
        ({"norm_eps": 10.0}, "norm_eps must be from"),
    ],
)
def test_a_configuration_of_other_weights_is_refused(digits_copy, changes, line):
    change(digits_copy, "transformer/config.json", **changes)
    with pytest.raises(InputError, match=line):
        refuse_unloadable(find_model(str(digits_copy)), "ddim", 4)


@pytest.mark.slow
def test_large_sizes_take_no_memory(digits_copy):
    """In a process whose address space ends 300 MiB above what a sound model took."""
    script = textwrap.dedent(
        """
        import json, pathlib, resource, sys
        from pipeline.errors import InputError
        from pipeline.models.loading import load_model
        from pipeline.models.model_info import find_model
        folder = pathlib.Path(sys.argv[1])
        def load():
            load_model(find_model(str(folder)), sampler="ddim", dtype="fp32", device="cpu")
        load()
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
        path = folder / "transformer" / "config.json"
        sound = json.loads(path.read_text())
        for name in ("num_layers", "attention_head_dim", "num_attention_heads", "sample_size",
                     "num_embeds_ada_norm", "patch_size"):
            path.write_text(json.dumps(sound | {name: 2**29}))
            try:
                load()
            except InputError as refusal:
                print(name, str(refusal).count("memory"))
        path.write_text(json.dumps(sound))
        path = folder / "classifier" / "config.json"
        path.write_text(json.dumps({"num_features": 2**20, "num_classes": 10}))
        try:
            load()
        except InputError as refusal:
            print("classifier", str(refusal).count("memory"))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(digits_copy)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 7
    assert not any(line.endswith(" 1") for line in done.stdout.splitlines()), done.stdout


@pytest.mark.parametrize("kind", ["further", "missing", "whole numbers", "NaN"])
def test_other_tensors_are_refused(digits_copy, kind):
    path = digits_copy / WEIGHTS
    weights = load_file(path)
    name = "proj_out_1.bias"
    if kind == "further":
        weights["proj_out_3.bias"] = weights[name].clone()
    elif kind == "missing":
        del weights[name]
    elif kind == "whole numbers":
        weights[name] = weights[name].to(torch.int32)
    else:
        weights[name][0] = torch.nan
    save_file(weights, path)
    with pytest.raises(InputError, match=r"^--model .*proj_out_.*Save the model again") as caught:
        load_model(find_model(str(digits_copy)), sampler="ddim", dtype="fp32", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "put", "line"),
    [
        ("provenance.json", lambda path: path.mkdir(), "a folder in place of the file"),
        ("provenance.json", lambda path: path.symlink_to("nowhere"), "must hold provenance.json"),
        ("scheduler/scheduler_config.json", os.mkfifo, "a named pipe in place of the file"),
        (WEIGHTS, os.mkfifo, "a named pipe in place of the file"),
        (WEIGHTS, lambda path: path.symlink_to("/dev/zero"), "a device"),
        ("classifier", lambda path: path.touch(), "must hold classifier as a folder"),
        ("transformer/config.json", lambda path: path.write_bytes(b"\xff"), "codec can't decode"),
        ("transformer/config.json", lambda path: path.write_text('{"a":1,"a":2}'), "more than on"),
        ("classifier/config.json", lambda path: path.write_text("[" * 10**5), "must hold class"),
    ],
)
def test_something_else_in_place_of_a_file_is_refused(digits_copy, name, put, line):
    path = digits_copy / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    put(path)
    assert line in refused(digits_copy)


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd", "", "config.json", "x.safetensors", "."]
)
def test_an_index_that_leads_elsewhere_is_refused(digits_copy, name):
    (digits_copy / WEIGHTS).unlink()
    index = {"metadata": {}, "weight_map": {"pos_embed.proj.bias": name}}
    (digits_copy / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert "must hold transformer weights as safetensors" in refused(digits_copy)


def test_weights_in_several_files_load(digits_copy):
    path = digits_copy / WEIGHTS
    loaded: Any = DiTTransformer2DModel.from_pretrained(digits_copy / "transformer")
    path.unlink()
    loaded.save_pretrained(digits_copy / "transformer", max_shard_size="1MB")
    assert len(list(path.parent.glob("*.safetensors"))) > 1
    model = load_model(find_model(str(digits_copy)), sampler="ddim", dtype="fp32", device="cpu")
    assert torch.equal(model.transformer.proj_out_1.weight, loaded.proj_out_1.weight.float())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"latent_channels": 3}, "a vae for latents of 4 channels. Got latent_channels 3"),
        ({"out_channels": 5}, "images of 1, 3 or 4 channels. Got 5"),
        ({"out_channels": 1}, "conv_out"),
        ({"block_out_channels": [2**15]}, "shape"),
        ({"layers_per_block": 2**30}, "tensors for layers_per_block"),
        ({"scaling_factor": 0.0}, "scaling_factor must be from"),
        ({"norm_num_groups": 3}, "must load with diffusers"),
        ({"_class_name": "UNet2DModel"}, "must hold an AutoencoderKL as vae"),
    ],
)
def test_another_vae_is_refused(latent, changes, line):
    change(latent, "vae/config.json", **changes)
    assert line in refused(latent)


def test_a_vae_that_the_index_names_must_be_there(latent):
    shutil.rmtree(latent / "vae")
    assert "must hold the vae that its model_index.json names" in refused(latent)


def test_the_shift_of_a_vae_is_decoded(latent):
    model = load_model(find_model(str(latent)), sampler="ddim", dtype="fp32", device="cpu")
    latents = torch.randn(1, 4, 8, 8)
    change(latent, "vae/config.json", shift_factor=0.5)
    shifted = load_model(find_model(str(latent)), sampler="ddim", dtype="fp32", device="cpu")
    vae: Any = model.vae
    moved = latents + 0.5 * vae.config.scaling_factor
    torch.testing.assert_close(shifted.decode(latents), model.decode(moved))


@pytest.mark.parametrize(
    ("changes", "steps", "line"),
    [
        ({"num_train_timesteps": 0}, 4, "num_train_timesteps must be from 1"),
        ({"num_train_timesteps": 10**12}, 4, "num_train_timesteps must be from 1"),
        ({"beta_start": float("nan")}, 4, "beta_start must be a"),
        ({"beta_end": 2.0}, 4, "beta_end must be from 0 to 1"),
        ({"beta_start": 1.0, "beta_end": 1.0}, 4, "share of the signal"),
        ({"beta_schedule": "x"}, 4, "x is not implemented for DDIMScheduler"),
        ({"steps_offset": 10**9}, 4, "steps_offset must be from"),
        ({"steps_offset": 999}, 4, "4 falling timesteps from 999 to 0"),
        ({"steps_offset": 1}, 1000, "1000 falling timesteps"),
        ({"trained_betas": [0.1]}, 4, "trained_betas must be num_train_timesteps numbers"),
        ({"_class_name": "DDIMInverse"}, 4, "must name a scheduler of diffusers"),
    ],
)
def test_an_absurd_scheduler_is_refused(digits_copy, changes, steps, line):
    change(digits_copy, "scheduler/scheduler_config.json", **changes)
    assert line in refused(digits_copy, steps=steps)


def test_an_absurd_guidance_is_refused(digits_copy):
    change(digits_copy, "provenance.json", recommended={"guidance_scale": 1e300})
    assert "guidance_scale must be from 0 to 1000" in refused(digits_copy)


def test_a_classifier_of_other_sizes_is_refused(digits_copy):
    change(digits_copy, "classifier/config.json", num_features=63)
    assert "must hold classifier weights as safetensors" in refused(digits_copy)


def test_a_classifier_of_other_classes_is_refused(digits_copy):
    change(digits_copy, "classifier/config.json", num_classes=9)
    assert "must hold a classifier of its images and classes" in refused(digits_copy)
