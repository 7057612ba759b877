from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.signals import (
    attention_entropy,
    cosine_snr,
    log_norm,
    map_entropy,
    relative_error,
    scheduler_snr,
)


def naive_entropy(query, key, scale):
    """Minus sum of p log p over the float64 map, and the largest score."""
    scores = scale * query.double() @ key.double().transpose(-1, -2)
    log_p = scores.log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return entropy.mean(dim=(1, 2)), float(scores.abs().max())


def random_heads(seed, rows, heads, tokens, width, keys=None):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, heads, tokens, width, generator=generator)
    key = torch.randn(rows, heads, keys or tokens, width, generator=generator)
    return query, key


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 3),
    heads=st.integers(1, 4),
    tokens=st.integers(1, 24),
    keys=st.integers(1, 24),
    width=st.integers(1, 16),
    scale=st.floats(1e-3, 300.0),
)
def test_entropy_is_that_of_the_naive_map(seed, rows, heads, tokens, keys, width, scale):
    query, key = random_heads(seed, rows, heads, tokens, width, keys)
    expected, largest = naive_entropy(query, key, scale)
    entropy = attention_entropy(query, key, scale=scale)
    assert (entropy - expected).abs().max() <= 1e-5 * max(1.0, largest)


def test_default_scale_is_that_of_attention():
    query, key = random_heads(0, 2, 2, 8, 16)
    torch.testing.assert_close(
        attention_entropy(query, key), attention_entropy(query, key, scale=0.25)
    )


@pytest.mark.parametrize("tokens", [1, 2, 16, 100])
def test_uniform_attention_has_log_n(tokens):
    query = torch.zeros(1, 2, 4, 8)
    key = torch.randn(1, 2, tokens, 8)
    assert attention_entropy(query, key).item() == pytest.approx(math.log(tokens), abs=1e-6)


def test_one_hot_attention_has_none():
    eye = torch.eye(8)[None, None]
    assert attention_entropy(eye, eye, scale=1e3).item() == pytest.approx(0.0, abs=1e-4)


@given(seed=st.integers(0, 2**31), scale=st.floats(0.0, 1e4))
def test_sixteen_tokens_have_at_most_log_16(seed, scale):
    query, key = random_heads(seed, 2, 2, 16, 8)
    entropy = attention_entropy(query, key, scale=scale)
    largest = naive_entropy(query, key, scale)[1]
    assert (entropy >= 0).all()
    assert (entropy <= math.log(16) + 1e-6 * max(1.0, largest)).all()


@given(tokens=st.integers(1, 32), extra=st.integers(0, 5))
def test_sampling_every_row_samples_nothing_away(tokens, extra):
    query, key = random_heads(tokens, 2, 2, tokens, 4)
    sampled = attention_entropy(query, key, max_rows=tokens + extra)
    assert torch.equal(sampled, attention_entropy(query, key))


@given(tokens=st.integers(1, 64), max_rows=st.integers(1, 16))
def test_sampled_rows_are_strided_and_no_more_than_asked(tokens, max_rows):
    query, key = random_heads(tokens, 1, 1, tokens, 4)
    rows = query[:, :, :: -(-tokens // max_rows)]
    assert rows.shape[2] <= max_rows
    sampled = attention_entropy(query, key, max_rows=max_rows)
    torch.testing.assert_close(sampled, attention_entropy(rows, key))


def test_row_sample_estimates_the_mean():
    query, key = random_heads(3, 1, 4, 256, 16)
    estimate = attention_entropy(query, key, max_rows=32)
    torch.testing.assert_close(estimate, attention_entropy(query, key), atol=0.1, rtol=0)


def test_half_precision_is_read_in_full():
    query, key = (value.half() for value in random_heads(1, 2, 2, 16, 8))
    expected = attention_entropy(query.float(), key.float())
    assert torch.equal(attention_entropy(query, key), expected)


def test_map_entropy_is_attention_entropy():
    query, key = random_heads(2, 2, 3, 10, 8)
    attention = (query @ key.transpose(-1, -2) / math.sqrt(8)).softmax(dim=-1)
    torch.testing.assert_close(map_entropy(attention), attention_entropy(query, key))


def test_map_entropy_takes_zeros():
    assert map_entropy(torch.eye(4)[None, None]).item() == 0.0


def test_snr_is_read_from_ddim(ddim):
    for timestep in (0.0, 500.0, 999.0):
        alpha = float(ddim.alphas_cumprod[int(timestep)])
        assert scheduler_snr(ddim, timestep) == pytest.approx(alpha / (1 - alpha))


def test_snr_falls_with_the_timestep(ddim):
    snr = [scheduler_snr(ddim, float(timestep)) for timestep in range(0, 1000, 37)]
    assert all(before > after for before, after in itertools.pairwise(snr))


def test_scheduler_without_alphas_is_refused():
    with pytest.raises(ValueError, match="must have alphas_cumprod"):
        scheduler_snr(object(), 3.0)


def test_cosine_snr_is_one_half_way():
    assert cosine_snr(0.5) == pytest.approx(1.0)
    assert cosine_snr(0.0) == pytest.approx(1e12)
    assert cosine_snr(1.0) == pytest.approx(0.0, abs=1e-12)


@given(progress=st.floats(0.01, 0.99))
def test_cosine_snr_is_the_cotangent_squared(progress):
    assert cosine_snr(progress) == pytest.approx(math.tan(0.5 * math.pi * progress) ** -2)


def test_log_norm_by_sample():
    latent = torch.tensor([3.0, 4.0, 0.0, 0.0]).view(2, 1, 1, 2)
    assert log_norm(latent)[0].item() == pytest.approx(math.log(5.0))
    assert math.isfinite(log_norm(latent)[1].item())


@given(seed=st.integers(0, 2**31), where=st.integers(0, 11))
def test_relative_error_is_zero_only_where_equal(seed, where):
    reference = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed))
    value = reference.clone()
    assert torch.equal(relative_error(value, reference), torch.zeros(2))
    value[1].view(-1)[where] += 0.5
    error = relative_error(value, reference)
    assert error[0] == 0
    assert error[1].item() == pytest.approx(0.5 / reference[1].norm().item(), rel=1e-4)


def test_relative_error_has_no_scale():
    value, reference = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(
        relative_error(value, reference), relative_error(8 * value, 8 * reference)
    )
