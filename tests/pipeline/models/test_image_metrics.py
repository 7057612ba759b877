"""PSNR, SSIM and Frechet distance on inputs whose result follows from arithmetic."""

import pytest
import torch

from pipeline.models.image_metrics import FeatureSums, frechet_of_sums, psnr, ssim


def normal(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def images(value, size=8):
    return torch.full((2, 1, size, size), value)


def frechet_distance(features, reference):
    return frechet_of_sums(FeatureSums.of(features), FeatureSums.of(reference))


def test_identical_images():
    same = normal(2, 64).view(2, 1, 8, 8).clamp(-1, 1)
    torch.testing.assert_close(psnr(same, same), torch.full((2,), 100.0))
    torch.testing.assert_close(ssim(same, same), torch.ones(2))


@pytest.mark.parametrize(("difference", "decibels"), [(2.0, 0.0), (0.2, 20.0), (0.02, 40.0)])
def test_psnr_has_a_peak_of_two(difference, decibels):
    found = psnr(images(difference - 1.0), images(-1.0))
    torch.testing.assert_close(found, torch.full((2,), decibels), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [8, 32])
def test_ssim_of_flat_images_compares_their_levels(size):
    low, high, stabiliser = 0.2, 0.6, (0.01 * 2.0) ** 2
    expected = (2 * low * high + stabiliser) / (low**2 + high**2 + stabiliser)
    found = ssim(images(low, size), images(high, size))
    torch.testing.assert_close(found, torch.full((2,), expected), atol=1e-4, rtol=0)


def test_each_sample_is_measured_alone():
    twins = images(0.0)
    changed = twins.clone()
    changed[1] += 0.2
    torch.testing.assert_close(psnr(changed, twins), torch.tensor([100.0, 20.0]), atol=1e-3, rtol=0)


def test_a_set_is_at_no_distance_from_itself():
    features = normal(200, 4)
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-4)
    shuffled = features[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    assert frechet_distance(shuffled, features) == pytest.approx(0.0, abs=1e-4)


def test_a_shift_costs_its_squared_length():
    features, shift = normal(200, 4), torch.tensor([1.0, 2.0, 0.0, -2.0])
    assert frechet_distance(features + shift, features) == pytest.approx(9.0, abs=1e-3)


def test_a_scale_costs_the_difference_of_deviations():
    features = normal(500, 1)
    features = (features - features.mean()) / features.std()
    assert frechet_distance(3.0 * features, features) == pytest.approx(4.0, abs=1e-3)


def test_distance_does_not_depend_on_the_axes():
    one, other = normal(300, 4), 1.5 * normal(300, 4, seed=1) + 0.5
    rotation = torch.linalg.qr(normal(4, 4, seed=2)).Q
    plain = frechet_distance(one, other)
    assert frechet_distance(one @ rotation, other @ rotation) == pytest.approx(plain, rel=1e-3)
    assert frechet_distance(other, one) == pytest.approx(plain, rel=1e-3)
