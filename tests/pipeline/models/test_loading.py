"""Models by name: the shipped model, folders that diffusers wrote, and refusals."""

import json
import shutil
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
)

from dqar.integration import DQARDDIMSampler
from pipeline.errors import InputError
from pipeline.models.digits_classifier import accuracy, load_classifier
from pipeline.models.loading import load_model
from pipeline.models.model_info import DIGITS, find_model, refuse_too_many_steps


@pytest.fixture(scope="module")
def latent_folder(tmp_path_factory):
    """Folder of a tiny random DiT with 1000 classes and a tiny VAE, by save_pretrained."""
    folder = tmp_path_factory.mktemp("latent") / "dit"
    torch.manual_seed(0)
    DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=1000,
    ).save_pretrained(folder / "transformer")
    # diffusers annotates tuples of length one, the length of the defaults.
    build_vae: Any = AutoencoderKL
    build_vae(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    ).save_pretrained(folder / "vae")
    DDIMScheduler().save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def copied(tmp_path):
    """Copy of the shipped model, for tests that damage it."""
    return shutil.copytree(DIGITS, tmp_path / "digits")


def load(name, **changes):
    options: dict[str, Any] = {"sampler": "ddim", "dtype": "fp32", "device": "cpu"} | changes
    return load_model(find_model(str(name)), **options)


def test_the_shipped_models_card():
    info = find_model("digits")
    assert (info.num_layers, info.num_classes, info.latent_shape) == (8, 10, (1, 8, 8))
    assert info.guidance_scale == 2.0
    assert [part.split("=")[0] for part in info.model_hash.split(",")] == [
        "transformer",
        "scheduler",
        "classifier",
    ]
    width, tokens = 96, 16
    assert info.site_flops["attn"] == (8 * width + 4 * tokens) * width * tokens
    assert info.site_flops["ff"] == 16 * width * width * tokens


def test_the_hash_is_of_the_weights(copied):
    assert find_model(str(copied)).model_hash == find_model("digits").model_hash
    weights = copied / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert find_model(str(copied)).model_hash != find_model("digits").model_hash


def test_guidance_without_provenance_is_diffusers_default(copied):
    (copied / "provenance.json").unlink()
    assert find_model(str(copied)).guidance_scale == 4.0


def test_pixel_space_decodes_to_itself(digits):
    latents = torch.tensor([[-2.0, 0.5, 2.0]]).view(1, 1, 1, 3)
    assert digits.decode(latents).flatten().tolist() == [-1.0, 0.5, 1.0]
    assert digits.vae is None


def test_a_model_without_classifier_has_no_features(latent_folder):
    model = load(latent_folder)
    images = torch.zeros(2, 3, 16, 16)
    assert model.features(images) is None
    assert model.label_accuracy(images, torch.tensor([0, 1])) is None


def test_a_latent_model_loads_and_decodes(latent_folder):
    model = load(latent_folder)
    assert (model.info.latent_shape, model.info.out_channels) == ((4, 8, 8), 8)
    assert model.info.num_classes == 1000
    images = model.decode(torch.randn(2, 4, 8, 8))
    assert images.shape == (2, 3, 16, 16)
    assert images.abs().max() <= 1
    assert not any(weight.requires_grad for weight in model.transformer.parameters())


@pytest.mark.parametrize(
    ("sampler", "kind"), [("ddim", DDIMScheduler), ("dpm", DPMSolverMultistepScheduler)]
)
def test_the_sampler_keeps_the_models_noise_schedule(sampler, kind):
    model = load("digits", sampler=sampler)
    assert type(model.scheduler) is kind
    stored: Any = DDIMScheduler.from_pretrained(DIGITS / "scheduler")
    torch.testing.assert_close(model.scheduler.alphas_cumprod, stored.alphas_cumprod)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_weights_compute_in_the_dtype_asked_for(dtype):
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    assert load("digits", dtype=dtype).transformer.dtype == expected


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "/no/such/folder", "a/b/c"])
def test_an_unknown_model_is_refused_with_the_choices(name):
    with pytest.raises(InputError, match="digits, a diffusers folder or a hub id"):
        find_model(name)


@pytest.mark.parametrize("part", ["transformer", "scheduler"])
def test_a_folder_without_a_part_is_refused(copied, part):
    shutil.rmtree(copied / part)
    with pytest.raises(InputError, match=rf"must hold {part}/.*save_pretrained"):
        find_model(str(copied))


@pytest.mark.parametrize(
    ("part", "changes", "line"),
    [
        ("transformer/config", {"num_layers": "8"}, r"num_layers must be a whole number\. Got '8'"),
        ("transformer/config", {"patch_size": 0}, r"patch_size must be at least 1 .*\. Got 0"),
        ("transformer/config", {"sample_size": None}, "sample_size must be a whole number. Got N"),
        ("scheduler/scheduler_config", {"num_train_timesteps": 1.5}, "must be a whole number"),
        ("provenance", {"recommended": {"guidance_scale": "2"}}, "guidance_scale must be a number"),
    ],
)
def test_a_field_of_a_wrong_kind_is_named(copied, part, changes, line):
    path = copied / f"{part}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(
        InputError, match=rf"--model .* must be (a DiT|sound)\. .*{line}.*save_pretrained"
    ):
        find_model(str(copied))


def test_a_missing_field_is_named(copied):
    path = copied / "transformer" / "config.json"
    config = json.loads(path.read_text())
    del config["in_channels"]
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json must hold 'in_channels'"):
        find_model(str(copied))


def test_another_kind_of_transformer_is_refused(copied):
    path = copied / "transformer" / "config.json"
    path.write_text(path.read_text().replace("DiTTransformer2DModel", "UNet2DModel"))
    with pytest.raises(InputError, match="class-conditional DiT"):
        find_model(str(copied))


def test_truncated_weights_are_refused(copied):
    weights = copied / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(
        InputError, match=r"must hold transformer weights as safetensors.*Save the model again"
    ):
        load(copied)


def test_the_shipped_model_draws_digits_with_stock_diffusers():
    """Sample with diffusers alone: DDIM, 50 steps, at the recommended guidance."""
    transformer = DiTTransformer2DModel.from_pretrained(
        DIGITS / "transformer", torch_dtype=torch.float32
    ).eval()
    scheduler: Any = DDIMScheduler.from_pretrained(DIGITS / "scheduler")
    labels = torch.arange(40) % 10
    both = torch.cat([labels, torch.full_like(labels, 10)])
    latents = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    guidance = find_model("digits").guidance_scale
    scheduler.set_timesteps(50)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            rows = torch.cat([latents, latents])
            predicted = transformer(rows, timestep=timestep.expand(80), class_labels=both).sample
            cond, uncond = predicted.chunk(2)
            guided = uncond + guidance * (cond - uncond)
            latents = scheduler.step(guided, timestep, latents).prev_sample
    classifier = load_classifier(DIGITS / "classifier")
    assert accuracy(classifier, latents.clamp(-1, 1), labels) >= 0.95


def test_a_folder_from_before_dit_had_a_class_loads(latent_folder, tmp_path):
    """Folders saved by older releases name Transformer2DModel."""
    older = shutil.copytree(latent_folder, tmp_path / "older")
    path = older / "transformer" / "config.json"
    config = json.loads(path.read_text()) | {"_class_name": "Transformer2DModel"}
    path.write_text(json.dumps(config))
    assert load(older).transformer.config.num_embeds_ada_norm == 1000


def test_more_steps_than_the_schedule_has_are_refused():
    with pytest.raises(InputError, match="at most 1000"):
        refuse_too_many_steps(find_model("digits"), 1001)


# NumPy warns of how diffusers' schedulers hand it tensors.
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize(
    "kind",
    [
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_a_folder_of_another_scheduler_is_sampled_as_by_the_library(copied, kind):
    digits: Any = DDIMScheduler.from_pretrained(copied / "scheduler")
    other = getattr(diffusers, kind)
    betas = {name: digits.config[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    other(**betas).save_pretrained(copied / "scheduler")
    found = load(copied).scheduler
    assert not found.config.clip_sample
    assert torch.equal(found.alphas_cumprod, digits.alphas_cumprod)
    saved = other.from_pretrained(copied / "scheduler")
    assert found.config == DQARDDIMSampler(None, saved).scheduler.config


@pytest.mark.parametrize(
    "kind", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "IPNDMScheduler"]
)
@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_a_folder_whose_schedule_no_sampler_takes_over_is_refused(copied, kind, sampler):
    getattr(diffusers, kind)().save_pretrained(copied / "scheduler")
    with pytest.raises(InputError, match=rf"--sampler {sampler}: .*can take over\. Got {kind}"):
        load(copied, sampler=sampler)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("provenance.json", "[" * 100_000),
        ("classifier/config.json", "{}x"),
        ("scheduler/scheduler_config.json", '{"beta_start": null}'),
        ("scheduler/scheduler_config.json", '{"timestep_spacing": "sideways"}'),
        ("scheduler/scheduler_config.json", '{"prediction_type": "sideways"}'),
        ("transformer/config.json", '{"activation_fn": "sideways"}'),
        ("transformer/config.json", '{"num_attention_heads": 0}'),
    ],
)
def test_a_broken_part_of_a_folder_is_refused_in_one_line(copied, part, text):
    path = copied / part
    is_change = part.startswith(("scheduler", "transformer"))
    path.write_text(
        json.dumps(json.loads(path.read_text()) | json.loads(text)) if is_change else text
    )
    with pytest.raises(InputError, match=r"^--model ") as refused:
        load(copied)
    assert "\n" not in str(refused.value)


def test_pickled_weights_are_refused(copied):
    weights = next((copied / "transformer").glob("*.safetensors"))
    torch.save({}, copied / "transformer" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(
        InputError, match=r"^--model .* must hold transformer weights as safetensors"
    ):
        load(copied)


def test_a_folder_within_a_part_is_no_harm(copied):
    before = find_model(str(copied)).model_hash
    (copied / "transformer" / ".cache").mkdir()
    assert find_model(str(copied)).model_hash == before
