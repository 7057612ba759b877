from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dqar.signals import (
    attention_entropy,
    map_entropy,
    sampled_entropy,
    spread_rows,
)


def rows_read(tokens: int, max_rows: int | None) -> torch.Tensor:
    read = spread_rows(tokens, max_rows, torch.device("cpu"))
    return torch.arange(tokens) if read is None else read


def naive_entropy(query, key, scale, bias=None):
    """Return ``-sum p log p`` of the float64 attention map, and the largest finite score.

    ``bias`` is added to the scores; a row whose scores are all -inf has entropy 0.
    """
    scores = scale * query.double() @ key.double().transpose(-1, -2)
    scores = scores if bias is None else scores + bias
    log_p = scores.log_softmax(dim=-1)
    terms = torch.where(scores.isinf(), 0.0, -log_p.exp() * log_p)
    seen = scores[scores.isfinite()]
    return terms.sum(dim=-1).mean(dim=(1, 2)), float(seen.abs().max()) if len(seen) else 0.0


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


MASK_SHAPES = ("rhnm", "11nm", "r11m", "1h1m", "nm", "1m")


@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(1, 6), min_size=4, max_size=4),
    shape=st.sampled_from(MASK_SHAPES),
    share=st.floats(0.0, 1.0),
    scale=st.floats(1e-3, 300.0),
    is_additive=st.booleans(),
    max_rows=st.none() | st.integers(1, 6),
)
def test_masked_entropy_is_that_of_the_naive_map(
    seed, sizes, shape, share, scale, is_additive, max_rows
):
    axes = dict(zip("rhnm", sizes, strict=True)) | {"1": 1}
    query, key = random_heads(seed, axes["r"], axes["h"], axes["n"], 4, axes["m"])
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand([axes[axis] for axis in shape], generator=generator) >= share
    bias = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    if is_additive:
        bias += 10 * torch.randn(mask.shape, generator=generator)
    read = rows_read(axes["n"], max_rows)
    rows = bias.expand(*sizes)[:, :, read]
    expected, largest = naive_entropy(query[:, :, read], key, scale, rows.double())
    entropy = attention_entropy(
        query, key, scale=scale, mask=bias if is_additive else mask, max_rows=max_rows
    )
    assert (entropy - expected).abs().max() <= 1e-5 * max(1.0, largest)


@pytest.mark.parametrize("shape", [(2, 3, 9, 5), (1, 1, 9, 5), (9, 5), (2, 1, 1, 5), (5,)])
def test_mask_goes_with_the_rows_that_are_read(shape):
    query, key = random_heads(4, 2, 3, 9, 4, keys=5)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(4)) < 0.5
    read = rows_read(9, 3)
    torch.testing.assert_close(
        attention_entropy(query, key, mask=mask, max_rows=3),
        attention_entropy(query[:, :, read], key, mask=mask.expand(2, 3, 9, 5)[:, :, read]),
    )


@pytest.mark.parametrize("is_additive", [False, True])
def test_mask_is_that_of_scaled_dot_product_attention(is_additive):
    query, key = random_heads(5, 2, 3, 8, 4)
    mask = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(5)) < 0.6
    mask[1, 0, 3] = False
    if is_additive:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    value = torch.eye(8).expand(2, 3, 8, 8)
    attention = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(map_entropy(attention), attention_entropy(query, key, mask=mask))


@pytest.mark.parametrize("hidden", [False, -math.inf])
def test_a_row_that_sees_no_key_has_none(hidden):
    query, key = torch.zeros(1, 1, 4, 8), torch.randn(1, 1, 16, 8)
    mask = torch.ones(4, 16, dtype=torch.bool) if hidden is False else torch.zeros(4, 16)
    mask[1] = hidden
    entropy = attention_entropy(query, key, mask=mask)
    assert entropy.item() == pytest.approx(0.75 * math.log(16), abs=1e-6)


def test_a_row_of_the_least_finite_bias_is_as_without_a_mask():
    query, key = random_heads(6, 1, 2, 4, 8)
    mask = torch.full((4, 4), torch.finfo(torch.float32).min)
    entropy = attention_entropy(query, key, mask=mask)
    assert entropy.item() == pytest.approx(math.log(4), abs=1e-6)


def test_broken_queries_are_not_hidden():
    query, key = random_heads(7, 2, 1, 4, 8)
    query[0, 0, 0, 0] = math.nan
    assert attention_entropy(query, key).isnan().tolist() == [True, False]


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
def test_as_many_rows_are_read_as_asked(tokens, max_rows):
    query, key = random_heads(tokens, 1, 1, tokens, 4)
    read = rows_read(tokens, max_rows)
    assert len(read.unique()) == len(read) == min(tokens, max_rows)
    sampled = attention_entropy(query, key, max_rows=max_rows)
    torch.testing.assert_close(sampled, attention_entropy(query[:, :, read], key))


@pytest.mark.parametrize("width", [8, 16, 24, 32])
def test_rows_that_are_read_lie_in_every_column_of_an_image(width):
    read = rows_read(width * width, 32)
    assert len((read % width).unique()) == width
    assert len((read // width).unique()) >= width // 2


def test_row_sample_estimates_the_mean():
    query, key = random_heads(3, 1, 4, 256, 16)
    estimate = attention_entropy(query, key, max_rows=32)
    torch.testing.assert_close(estimate, attention_entropy(query, key), atol=0.1, rtol=0)


@pytest.mark.parametrize("max_rows", [8, 16, 32])
@pytest.mark.parametrize("heads_agree", [False, True])
def test_error_of_the_estimate_is_as_stated(max_rows, heads_agree):
    query, key = random_heads(11, 400, 3, 64, 8)
    if heads_agree:  # then further heads are no independent observations
        query, key = query[:, :1].expand(400, 3, 64, 8), key[:, :1].expand(400, 3, 64, 8)
    estimate = sampled_entropy(query, key, max_rows=max_rows)
    error = estimate.mean - attention_entropy(query, key)
    stated = estimate.standard_error
    assert 0.9 <= (error.square().mean() / stated.square().mean()).sqrt() <= 1.1
    assert 0.7 <= (error / stated).square().mean().sqrt() <= 1.4


@given(seed=st.integers(0, 2**31), tokens=st.integers(2, 40), max_rows=st.integers(1, 40))
def test_standard_error_is_the_textbook_one(seed, tokens, max_rows):
    assume(max_rows < tokens)
    query, key = random_heads(seed, 2, 3, tokens, 4)
    estimate = sampled_entropy(query, key, max_rows=max_rows)
    torch.testing.assert_close(estimate.mean, attention_entropy(query, key, max_rows=max_rows))
    rows = [attention_entropy(row, key) for row in query.split(1, dim=2)]
    read = torch.stack(rows, dim=1)[:, rows_read(tokens, max_rows)].double()
    count = read.shape[1]
    if count == 1:
        assert estimate.standard_error.isinf().all()
        return
    expected = (read.var(dim=1) / count * (1 - count / tokens)).sqrt().float()
    torch.testing.assert_close(estimate.standard_error, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("tokens", [1, 2, 16])
def test_reading_every_row_leaves_no_error(tokens):
    query, key = random_heads(12, 2, 3, tokens, 4, keys=16)
    mask = torch.rand(tokens, 16, generator=torch.Generator().manual_seed(12)) < 0.5
    estimate = sampled_entropy(query, key, mask=mask, max_rows=tokens)
    torch.testing.assert_close(estimate.mean, attention_entropy(query, key, mask=mask))
    assert torch.equal(estimate.standard_error, torch.zeros(2))


def test_no_rows_are_refused():
    query, key = random_heads(0, 1, 1, 4, 4)
    with pytest.raises(ValueError, match="max_rows must be at least 1"):
        attention_entropy(query, key, max_rows=0)


def test_autocast_does_not_round_the_scores():
    query, key = random_heads(8, 2, 2, 16, 64)
    expected = attention_entropy(query, key)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attention_entropy(query, key), expected)


def test_half_precision_is_read_in_full():
    query, key = (value.half() for value in random_heads(1, 2, 2, 16, 8))
    expected = attention_entropy(query.float(), key.float())
    assert torch.equal(attention_entropy(query, key), expected)
