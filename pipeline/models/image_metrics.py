"""What a quality delta is: always against the twin (same noise, label, sampler, no reuse)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from dqar.signals import relative_error
from pipeline.models.loading import LoadedModel


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


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSums:
    """What a Frechet distance needs of a set of features. Sums of two sets add up."""

    count: int
    total: Float64[Tensor, " f"]
    """Sum of the features."""
    outer: Float64[Tensor, "f f"]
    """Sum of their outer products with themselves."""

    @classmethod
    def of(cls, features: Float[Tensor, "b f"]) -> FeatureSums:
        """Of a batch of features."""
        rows = features.detach().double().cpu()
        return cls(count=len(rows), total=rows.sum(dim=0), outer=rows.T @ rows)

    def __add__(self, other: FeatureSums) -> FeatureSums:
        return FeatureSums(
            count=self.count + other.count,
            total=self.total + other.total,
            outer=self.outer + other.outer,
        )

    @property
    def mean(self) -> Float64[Tensor, " f"]:
        """Mean of the features."""
        return self.total / self.count

    @property
    def covariance(self) -> Float64[Tensor, "f f"]:
        """Unbiased covariance of the features; at least two are needed."""
        centred = self.outer - self.count * torch.outer(self.mean, self.mean)
        return centred / (self.count - 1)


def frechet_of_sums(one: FeatureSums, other: FeatureSums) -> float:
    """FID of two sets by their sums, in double precision:
    ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`` (Heusel et al. 2017, equation 6)."""
    between = (one.mean - other.mean).square().sum()
    traces = one.covariance.trace() + other.covariance.trace()
    # Eigenvalues of a product of two covariances are not negative but for rounding.
    eigenvalues = torch.linalg.eigvals(one.covariance @ other.covariance)
    return float(between + traces - 2.0 * eigenvalues.sqrt().real.sum())
