"""Sample under MLflow, and write the images, the grid of images and sample.json."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from dqar.policy.network import ReusePolicy
from dqar.schedules.serialization import plan_document
from dqar.schedules.static_plan import StaticPlan
from pipeline.cluster.hardware import describe_machine
from pipeline.models.loading import LoadedModel
from pipeline.redaction import without_secrets
from pipeline.sample.sample import SampleConfig, Sampled, sample
from pipeline.storage.unfinished_folder import written_last
from pipeline.tracking import Tracker, flat

GRID_IMAGES = 8
METRICS = (
    "reuse_ratio",
    "seconds_per_sample",
    "twin_seconds_per_sample",
    "latent_rel_l2",
    "cache_mb",
)
"""Figures of sample.json that MLflow gets; ``twin_seconds_per_sample`` is the time of the reference
samples."""


def sample_images(
    config: SampleConfig,
    model: LoadedModel,
    policy: ReusePolicy | None,
    folder: Path,
    tracker: Tracker,
    command: str,
    plan: StaticPlan | None = None,
) -> dict[str, Any]:
    """Sample, log the run to MLflow and write the folder; return the contents of sample.json.

    Args:
        folder: folder for the images and sample.json.
        command: command line, which sample.json repeats.
    """
    lineage = policy.spec.lineage if policy else {}
    parent = tracker.open_pipeline(lineage, "pipeline")
    tags = {f"lineage.{stage}": run_id for stage, run_id in lineage.items()}
    with tracker.run(f"sample {config.model}", stage="sample", parent=parent, tags=tags) as run:
        run.params(flat(asdict(config)))
        sampled = sample(config, model, policy, plan)
        account = {"command": command, **account_of(config, model, policy, sampled)}
        account["plan"] = None if plan is None else plan_document(plan)
        write_samples(sampled, account, folder)
        run.metrics({f"sample/{name}": _figure(account, name) for name in METRICS})
        run.output(folder, "samples")
    _announce(config, account, folder)
    return account


def account_of(
    config: SampleConfig, model: LoadedModel, policy: ReusePolicy | None, sampled: Sampled
) -> dict[str, Any]:
    """Return the contents of sample.json, all but the command and the plan.

    These are the settings, the counts of reuse decisions by reason, the times in seconds, the
    errors against the reference samples, the size of the cache in MiB and the machine.
    """
    summary = sampled.summary
    return {
        "config": asdict(config)
        # A path may look like a URI with a token.
        | {"class_labels": sampled.class_labels, "model": without_secrets(config.model)},
        "model_hash": model.info.model_hash,
        "policy_traces": policy.spec.trace_digest if policy else None,
        "note": summary.note,
        "reuse_ratio": summary.reuse_ratio,
        "reuse": asdict(summary),
        "seconds_per_sample": sampled.seconds_per_sample,
        "twin_seconds_per_sample": sampled.reference_seconds_per_sample,
        "latent_rel_l2": sampled.latent_rel_l2,
        "cache_mb": summary.cache_bytes / 2**20,
        "machine": describe_machine(model.transformer.device.type),
    }


def write_samples(sampled: Sampled, account: dict[str, Any], folder: Path) -> None:
    """Write ``images/NNN.png``, ``samples.png`` and ``sample.json``; delete an earlier run's."""
    with written_last(folder / "sample.json", account):
        images = folder / "images"
        images.mkdir(exist_ok=True)
        for earlier in images.glob("[0-9][0-9][0-9]*.png"):
            earlier.unlink()
        for index, pixels in enumerate(_to_pixels(sampled.images)):
            _write_png(pixels, images / f"{index:03d}.png")
        plot_grid(sampled, folder / "samples.png")


def plot_grid(sampled: Sampled, path: Path) -> None:
    """Plot a row of the first images with DQAR, below a row of their reference samples if any."""
    from matplotlib.figure import Figure

    strips = [("DQAR", sampled.images)]
    if sampled.reference_images is not None:
        strips.insert(0, ("reference", sampled.reference_images))
    figure = Figure(figsize=(9, 1.2 * len(strips)), layout="constrained")
    panels = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    for panel, (label, images) in zip(panels, strips, strict=True):
        strip = np.concatenate(list(_to_pixels(images[:GRID_IMAGES])), axis=1)
        panel.imshow(strip, cmap="gray", vmin=0, vmax=255)
        panel.set(xticks=[], yticks=[])
        panel.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(path, dpi=120)


def _announce(config: SampleConfig, account: dict[str, Any], folder: Path) -> None:
    print(f"sample: {account['note']}", flush=True)
    refusals = account["reuse"]["by_reason"]
    if config.dqar.enabled and refusals.keys().isdisjoint(("reuse", "shared")):
        print(
            "sample: WARNING: DQAR is on, but nothing was reused; the most frequent reason is "
            f"{max(refusals, key=refusals.get)!r}. Relax that condition in --config, or pass "
            "another --policy or --plan.",
            file=sys.stderr,
            flush=True,
        )
    against = ""
    if account["latent_rel_l2"] is not None:
        against = (
            f" against {account['twin_seconds_per_sample']:.3f} s without reuse; relative L2 "
            f"distance to the reference samples {fmean(account['latent_rel_l2']):.4f}"
        )
    print(
        f"sample: wrote images, samples.png and sample.json to {folder}; "
        f"{account['seconds_per_sample']:.3f} s per sample{against}",
        flush=True,
    )


def _to_pixels(images: Float[Tensor, "b c h w"]) -> UInt8[np.ndarray, "b h w c"]:
    scaled = (images.float().clamp(-1, 1) + 1.0) * 127.5
    return scaled.round().byte().permute(0, 2, 3, 1).numpy()


def _write_png(pixels: UInt8[np.ndarray, "h w c"], path: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(path)


def _figure(account: dict[str, Any], name: str) -> float | None:
    value = account[name]
    return fmean(value) if isinstance(value, list) else value
