"""Quality of samples against their reference samples, and FID against real images.

A reference sample has the same noise, label and sampler, and no reuse.
"""

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
    """Distances of samples from their reference samples, one value for each sample."""

    latent_rel_l2: Float[Tensor, " b"]
    """Relative L2 distance of the final latents: ``||x - x_ref|| / ||x_ref||``."""
    psnr: Float[Tensor, " b"]
    """Peak signal-to-noise ratio of the images in dB, for a range of [-1, 1]; at most 100."""
    ssim: Float[Tensor, " b"]
    """Structural similarity of the images."""
    feature_distance: Float[Tensor, " b"] | None
    """L2 distance of the image features; None if the model has no features."""


def measure_deltas(
    model: LoadedModel, latents: Float[Tensor, "b c h w"], references: Float[Tensor, "b c h w"]
) -> Deltas:
    """Compare final latents with reference latents, and the decoded images of both."""
    images, reference_images = model.decode(latents), model.decode(references)
    features, reference_features = model.features(images), model.features(reference_images)
    distance = None
    if features is not None and reference_features is not None:
        distance = (features - reference_features).norm(dim=1)
    return Deltas(
        latent_rel_l2=relative_error(latents, references),
        psnr=psnr(images, reference_images),
        ssim=ssim(images, reference_images),
        feature_distance=distance,
    )


def psnr(
    images: Float[Tensor, "b c h w"], references: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Return the PSNR in dB of images in [-1, 1]; identical images give 100."""
    mse = (images - references).double().square().flatten(1).mean(dim=1)
    return (10.0 * torch.log10(4.0 / mse.clamp_min(4e-10))).float()


def ssim(
    images: Float[Tensor, "b c h w"], references: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Return the SSIM (Wang et al. 2004) of images in [-1, 1].

    The Gaussian window has a sigma of 1.5 pixels, and of 0.5 for images narrower than 32 pixels.
    """
    sigma = 1.5 if images.shape[-1] >= 32 else 0.5
    result = structural_similarity_index_measure(
        images, references, sigma=sigma, data_range=2.0, reduction="none"
    )
    assert isinstance(result, Tensor)
    return result.reshape(len(images))


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSums:
    """Sums over a set of image features, from which a Frechet distance follows.

    The sums of two sets add up to those of their union.
    """

    count: int
    """Number of images."""
    total: Float64[Tensor, " f"]
    """Sum of the features."""
    outer: Float64[Tensor, "f f"]
    """Sum of the outer product of each feature vector with itself."""

    @classmethod
    def of(cls, features: Float[Tensor, "b f"]) -> FeatureSums:
        """Sum a batch of features, in double precision."""
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
        """Unbiased covariance of the features, of at least two images."""
        centred = self.outer - self.count * torch.outer(self.mean, self.mean)
        return centred / (self.count - 1)


def frechet_of_sums(one: FeatureSums, other: FeatureSums) -> float:
    """Return the Frechet distance (FID) of two sets of features from their sums.

    ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`` (Heusel et al. 2017, equation 6), with means m and
    covariances C, in double precision.
    """
    between = (one.mean - other.mean).square().sum()
    traces = one.covariance.trace() + other.covariance.trace()
    # The eigenvalues of a product of two covariances are not negative, except by rounding.
    eigenvalues = torch.linalg.eigvals(one.covariance @ other.covariance)
    return float(between + traces - 2.0 * eigenvalues.sqrt().real.sum())
