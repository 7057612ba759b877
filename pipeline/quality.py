"""What a quality delta is: always against the twin (same noise, label, sampler, no reuse)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from dqar.signals import relative_error
from pipeline.models import LoadedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Deltas:
    """Per sample, against the twin."""

    latent_rel_l2: Float[Tensor, " b"]
    """Relative L2 distance of the final latent."""
    psnr: Float[Tensor, " b"]
    """Peak signal-to-noise ratio of the image in dB, peak-to-peak 2, at most 100."""
    ssim: Float[Tensor, " b"]
    """Structural similarity of the image."""
    feature_distance: Float[Tensor, " b"] | None
    """L2 distance in the model's feature space; None where it has none."""


def measure_deltas(
    model: LoadedModel, latents: Float[Tensor, "b c h w"], twins: Float[Tensor, "b c h w"]
) -> Deltas:
    """Compare final latents with their twins', and the images they decode to."""
    images, twin_images = model.decode(latents), model.decode(twins)
    features, twin_features = model.features(images), model.features(twin_images)
    distance = None
    if features is not None and twin_features is not None:
        distance = (features - twin_features).norm(dim=1)
    return Deltas(
        latent_rel_l2=relative_error(latents, twins),
        psnr=psnr(images, twin_images),
        ssim=ssim(images, twin_images),
        feature_distance=distance,
    )


def psnr(images: Float[Tensor, "b c h w"], twins: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """PSNR in dB for images in [-1, 1]; identical images give 100."""
    mse = (images - twins).double().square().flatten(1).mean(dim=1)
    return (10.0 * torch.log10(4.0 / mse.clamp_min(4e-10))).float()


def ssim(images: Float[Tensor, "b c h w"], twins: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """SSIM after Wang et al. 2004; a narrower window on images below 32 pixels."""
    sigma = 1.5 if images.shape[-1] >= 32 else 0.5
    result = structural_similarity_index_measure(
        images, twins, sigma=sigma, data_range=2.0, reduction="none"
    )
    assert isinstance(result, Tensor)
    return result.reshape(len(images))


def frechet_distance(features: Float[Tensor, "b f"], reference: Float[Tensor, "m f"]) -> float:
    """FID between two sets of features (Heusel et al. 2017), by torchmetrics."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Passthrough(features.shape[1]))
    metric = metric.to(features.device)
    metric.update(reference, real=True)
    metric.update(features, real=False)
    return float(metric.compute())


class _Passthrough(torch.nn.Module):
    """Features that were computed already, where torchmetrics expects a network."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
