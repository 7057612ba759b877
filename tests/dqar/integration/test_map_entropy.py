"""Entropy of a given attention map, the norm of a latent, and relative errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.signals import (
    attention_entropy,
    log_norm,
    map_entropy,
    relative_error,
)


def random_heads(seed, rows, heads, tokens, width, keys=None):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, heads, tokens, width, generator=generator)
    key = torch.randn(rows, heads, keys or tokens, width, generator=generator)
    return query, key


def test_map_entropy_is_attention_entropy():
    query, key = random_heads(2, 2, 3, 10, 8)
    attention = (query @ key.transpose(-1, -2) / math.sqrt(8)).softmax(dim=-1)
    torch.testing.assert_close(map_entropy(attention), attention_entropy(query, key))


@given(
    seed=st.integers(0, 2**31),
    keys=st.integers(1, 64),
    scale=st.floats(0.0, 30.0),
    epsilon=st.floats(1e-6, 1e-2),
)
def test_the_seeds_form_is_less_by_no_more_than_n_epsilon(seed, keys, scale, epsilon):
    query, key = random_heads(seed, 1, 1, 1, 8, keys)
    attention = (scale * query @ key.transpose(-1, -2)).softmax(dim=-1)
    less = float(map_entropy(attention) - map_entropy(attention, epsilon=epsilon))
    assert -1e-6 <= less <= keys * epsilon + 1e-6


def test_the_bound_of_the_seeds_form_is_all_but_reached():
    attention = torch.full((1, 1, 4, 16), 1 / 16)
    less = map_entropy(attention) - map_entropy(attention, epsilon=1e-4)
    assert less.item() == pytest.approx(16e-4, rel=1e-3)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_map_entropy_takes_zeros(epsilon):
    entropy = map_entropy(torch.eye(4)[None, None], epsilon=epsilon)
    assert entropy.item() == pytest.approx(0.0, abs=2e-6)


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
