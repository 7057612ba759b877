"""Train the shipped model: a class-conditional DiT on scikit-learn's handwritten digits.

The recipe is that of DiT (Peebles and Xie 2023, arXiv 2212.09748): adaLN-zero, epsilon
prediction, linear betas, label dropout for classifier-free guidance, and an exponential moving
average of the weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.models.digits_classifier import (
    DigitClassifier,
    accuracy,
    load_classifier,
    save_classifier,
)
from pipeline.models.digits_data import load_digit_images
from pipeline.models.pretrain_config import PretrainConfig

NUM_CLASSES = 10
HELD_OUT_SHARE = 5
"""One in this many digits is held out from the classifier and measures its accuracy."""


def build_transformer(config: PretrainConfig) -> Any:
    """Build a DiT with initial weights for 8x8 digits in 2x2 patches, which make 16 tokens."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=1,
        out_channels=1,
        num_layers=config.num_layers,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=NUM_CLASSES,
    )
    for block in transformer.transformer_blocks:
        _open_ada_norm_at_zero(block)
    return transformer


def _open_ada_norm_at_zero(block: Any) -> None:
    nn.init.zeros_(block.norm1.linear.weight)
    nn.init.zeros_(block.norm1.linear.bias)
    # Labels are dropped once for the whole model: the blocks would drop them independently.
    block.norm1.emb.class_embedder.dropout_prob = 0.0


def build_scheduler(config: PretrainConfig) -> Any:
    """Build a DDIM scheduler with 1,000 betas, without clipping of the predicted sample."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_schedule=config.beta_schedule, clip_sample=False
    )


def train_transformer(
    config: PretrainConfig, images: Tensor, labels: Tensor, report: Callable[[str], None]
) -> tuple[Any, float]:
    """Train the transformer.

    Args:
        images: digits in [-1, 1].
        labels: digits that the images show.
        report: called with a line of progress every 100 optimizer steps.

    Returns:
        The model with averaged weights, and the mean loss over the last tenth of the steps.
    """
    generator = torch.Generator().manual_seed(config.seed)
    model = build_transformer(config)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    schedule = _warmup_then_cosine(optimizer, config.steps)
    alphas_cumprod = build_scheduler(config).alphas_cumprod
    losses: list[float] = []
    started = time.perf_counter()
    for step in range(config.steps):
        batch = _draw_batch(config, images, labels, generator)
        loss = _denoising_loss(model, alphas_cumprod, *batch, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            rate = (step + 1) / (time.perf_counter() - started)
            recent = sum(losses[-100:]) / 100
            report(
                f"pretrain: optimizer step {step + 1}/{config.steps}, loss {recent:.4f} (mean of "
                f"the last 100 steps), {rate:.1f} steps/s"
            )
    tail = losses[-max(1, config.steps // 10) :]
    return average.module.eval(), sum(tail) / len(tail)


def _warmup_then_cosine(optimizer, steps: int):
    warmup_steps = min(200, max(1, steps // 10))
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warmup_steps)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warmup_steps))
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [warmup_steps])


def _draw_batch(config, images, labels, generator):
    chosen = torch.randint(len(images), (config.batch_size,), generator=generator)
    dropped = torch.rand(config.batch_size, generator=generator) < config.label_dropout
    return images[chosen], torch.where(dropped, NUM_CLASSES, labels[chosen])


def _denoising_loss(model, alphas_cumprod, clean, labels, generator) -> Tensor:
    timesteps = torch.randint(len(alphas_cumprod), (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    inputs = alphas_cumprod[timesteps][:, None, None, None]
    noisy = inputs.sqrt() * clean + (1 - inputs).sqrt() * noise
    return F.mse_loss(model(noisy, timestep=timesteps, class_labels=labels).sample, noise)


def train_classifier(
    config: PretrainConfig, images: Tensor, labels: Tensor
) -> tuple[DigitClassifier, float]:
    """Train the digit classifier; return it and its accuracy on the held-out fifth."""
    torch.manual_seed(config.seed)
    held_out = torch.arange(len(images)) % HELD_OUT_SHARE == 0
    generator = torch.Generator().manual_seed(config.seed)
    classifier = DigitClassifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3)
    rows = torch.nonzero(~held_out).flatten()
    for _ in range(config.classifier_epochs):
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(64):
            loss = F.cross_entropy(classifier(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    classifier.eval()
    return classifier, accuracy(classifier, images[held_out], labels[held_out])


def pretrain(
    config: PretrainConfig, out: Path, command: str, report: Callable[[str], None]
) -> dict:
    """Train the model and its classifier and write them as a diffusers folder.

    The transformer is stored in fp16; the accuracy of its samples is measured after loading it from
    disk. ``provenance.json`` records the command, the settings and the measured figures.

    Args:
        config: settings of the training.
        out: folder to write.
        command: command line that started the training.
        report: called with lines of progress.

    Returns:
        The content of ``provenance.json``.
    """
    torch.manual_seed(config.seed)
    images, labels = load_digit_images()
    classifier, classifier_accuracy = train_classifier(config, images, labels)
    save_classifier(classifier, out / "classifier")
    report(
        f"pretrain: the digit classifier is right on {classifier_accuracy:.1%} of the real digits "
        "that were held out from it"
    )
    transformer, loss = train_transformer(config, images, labels, report)
    transformer.half().save_pretrained(out / "transformer")
    build_scheduler(config).save_pretrained(out / "scheduler")
    provenance = {
        "command": command,
        "data": "sklearn.datasets.load_digits: 1,797 8x8 digits (UCI optical recognition)",
        "config": asdict(config),
        "final_loss": round(loss, 5),
        "classifier_accuracy": round(classifier_accuracy, 4),
        "recommended": {"guidance_scale": config.guidance_scale, "steps": 50},
    }
    provenance["sample_accuracy"] = round(_sample_accuracy(out, config), 4)
    (out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
    report(
        f"pretrain: the classifier recognises the requested digit in "
        f"{provenance['sample_accuracy']:.1%} of 500 samples (DDIM, 50 steps, guidance "
        f"{config.guidance_scale:g})"
    )
    return provenance


@torch.no_grad()
def _sample_accuracy(folder: Path, config: PretrainConfig, num_samples: int = 500) -> float:
    transformer = DiTTransformer2DModel.from_pretrained(
        folder / "transformer", torch_dtype=torch.float32
    ).eval()
    scheduler: Any = DDIMScheduler.from_pretrained(folder / "scheduler")
    labels = torch.arange(num_samples) % NUM_CLASSES
    generator = torch.Generator().manual_seed(config.seed)
    latents = torch.randn(num_samples, 1, 8, 8, generator=generator)
    both = torch.cat([labels, torch.full_like(labels, NUM_CLASSES)])
    scheduler.set_timesteps(50)
    for timestep in scheduler.timesteps:
        stacked = torch.cat([latents, latents])
        noise = transformer(stacked, timestep=timestep.expand(len(both)), class_labels=both).sample
        cond, uncond = noise.chunk(2)
        guided = uncond + config.guidance_scale * (cond - uncond)
        latents = scheduler.step(guided, timestep, latents).prev_sample
    return accuracy(load_classifier(folder / "classifier"), latents.clamp(-1, 1), labels)
