"""Newton forecasts: exact for polynomials of their degree at any steps; error bounds with int8."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqar.cache.forecast import divided_difference, forecast, forecast_weights, update_rates
from dqar.cache.forecast_coefficients import Coefficients, StepCoefficients
from dqar.cache.history import History
from dqar.config import DQARConfig
from dqar.records import EntryKey

KEY, CPU = EntryKey("attn", 0), torch.device("cpu")
GAPS = st.lists(st.integers(1, 7), min_size=4, max_size=6)
ORDERS = st.sampled_from([0, 1, 2])


def ints(*values: int) -> torch.Tensor:
    return torch.tensor([list(values)])


def coefficients_at(step: int, past: list[int], order: int) -> Coefficients:
    """Coefficients of an entry that was computed at the steps ``past``, latest first."""
    gap = step - past[0] if past else 0
    span = past[0] - past[1] if len(past) > 1 else 0
    order = min(order, max(0, len(past) - 1))
    return Coefficients(step=StepCoefficients(ints(gap), ints(span), ints(order), 2), gate=0)


def history_of(values: dict[int, torch.Tensor], bits: int, **changes) -> tuple[History, list[int]]:
    """Return a history with a value stored at each step, and the steps, latest first."""
    config = DQARConfig(quantization_bits=bits, **changes)  # pyright: ignore[reportArgumentType]
    history, past = History.of(config.cache_formats(None), None, 2), []
    for step, value in values.items():
        history.store(KEY, {"output": value}, coefficients_at(step, past, 2))
        past.insert(0, step)
    return history, past


def steps_of(gaps: list[int]) -> list[int]:
    return torch.tensor(gaps).cumsum(0).tolist()


# The formula.


def test_weights_and_rates_by_hand():
    gap, span = torch.tensor([3, 3, 3, 0, 2]), torch.tensor([2, 2, 2, 0, 0])
    order = torch.tensor([0, 1, 2, 0, 0])
    assert forecast_weights(gap, span, order).tolist() == [[0, 3, 3, 0, 0], [0, 0, 15, 0, 0]]
    expected = [[1 / 3, 1 / 3, 1 / 3, 0, 1 / 2], [1 / 5, 1 / 5, 1 / 5, 0, 0]]
    torch.testing.assert_close(update_rates(gap, span), torch.tensor(expected).double())


def test_no_difference_gives_the_value_itself():
    value = torch.ones(2, 3)
    assert forecast(value, [], []) is value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_weight_is_the_same_for_all_rows_or_by_row(dtype):
    value, difference = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(1)).to(
        dtype
    )
    by_row = torch.full((4,), 3.0)
    for alike, apart in (
        (forecast(value, [difference], [3.0]), forecast(value, [difference], [by_row])),
        (divided_difference(value, difference, 3.0), divided_difference(value, difference, by_row)),
    ):
        assert alike.dtype == apart.dtype == dtype
        torch.testing.assert_close(alike, apart)


def test_weights_of_large_gaps_are_not_rounded_to_the_values_dtype():
    value, difference = torch.tensor([[[[-2.0]]], [[[2.0**-7]]]]).bfloat16()
    # 257 rounds to 256 in bfloat16; with a weight of 256 the sum would be 0.
    assert forecast(value, [difference], [torch.tensor([257.0])]).item() == 2.0**-7


# A float cache.


@given(GAPS, ORDERS, st.integers(1, 6), st.integers(0, 2**31))
@settings(deadline=None, max_examples=80)
def test_polynomials_of_the_orders_degree_are_exact(gaps, order, ahead, seed):
    steps, generator = steps_of(gaps), torch.Generator().manual_seed(seed)
    powers = torch.randn(order + 1, 2, 3, 4, generator=generator)

    def value_at(step: int) -> torch.Tensor:
        at = (step - steps[-1]) / 10
        return torch.stack([power * at**n for n, power in enumerate(powers)]).sum(0)

    history, past = history_of({step: value_at(step) for step in steps}, 32)
    shown = history.read(KEY, coefficients_at(steps[-1] + ahead, past, order))["output"]
    torch.testing.assert_close(shown, value_at(steps[-1] + ahead), atol=1e-4, rtol=1e-4)


@given(GAPS, ORDERS)
@settings(deadline=None, max_examples=30)
def test_what_was_just_computed_is_shown_as_it_is(gaps, order):
    values = {step: torch.full((1, 2, 2), float(step**3)) for step in steps_of(gaps)}
    history, past = history_of(values, 32)
    assert torch.equal(
        history.read(KEY, coefficients_at(past[0], past, order))["output"], values[past[0]]
    )


@pytest.mark.parametrize("computed", [1, 2, 3])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_too_short_a_past_lowers_the_order(order, computed):
    values = {step: torch.full((1, 1, 1), float(step**2)) for step in range(1, computed + 1)}
    history, past = history_of(values, 32)
    shown = history.read(KEY, coefficients_at(computed + 2, past, order))["output"].item()
    last = float(computed**2)
    expected = [last, last + 2 * (2 * computed - 1), (computed + 2.0) ** 2]
    assert shown == expected[min(order, computed - 1)]


# An int8 cache.


def errors_of_int8(values: dict[int, torch.Tensor], exact: History, past: list[int]) -> list[float]:
    """Return error bounds of a value and its differences: half a scale each, and for a difference
    also the error of the stored value (or difference) from which it is made."""
    largest = max(value.abs().max().item() for value in values.values())
    first, second = (cache.read(KEY)["output"].abs().max().item() for cache in exact.differences)
    rate, rate_before = (1.0 / (later - earlier) for later, earlier in itertools.pairwise(past[:3]))
    off = largest / 254
    made = off * rate
    before = off * rate_before + (2 * largest + off) * rate_before / 254
    curved = (made + before) / (past[0] - past[2])
    return [off, made + (first + made) / 254, curved + (second + curved) / 254]


@given(GAPS, ORDERS, st.integers(1, 6), st.integers(0, 2**31), st.booleans())
def test_int8_is_off_by_its_half_scales_and_what_the_weights_make_of_them(
    gaps, order, ahead, seed, by_channel
):
    generator, steps = torch.Generator().manual_seed(seed), steps_of(gaps)
    values = {step: torch.randn(2, 5, 4, generator=generator) for step in steps}
    mode = "per_channel" if by_channel else "per_tensor"
    stored, past = history_of(values, 8, quantization_mode=mode)
    exact, _ = history_of(values, 32)
    now = coefficients_at(steps[-1] + ahead, past, order)
    weights = torch.tensor([1.0, *now.weights(2, CPU)])
    bound = weights @ torch.tensor(errors_of_int8(values, exact, past))
    error = stored.read(KEY, now)["output"] - exact.read(KEY, now)["output"]
    assert error.abs().max() <= bound * 1.001


# By sample.


def test_samples_of_one_batch_have_orders_and_gaps_of_their_own():
    gap, span = torch.tensor([[2, 2, 3]]), torch.tensor([[1, 1, 4]])
    step = StepCoefficients(gap, span, torch.tensor([[0, 1, 2]]), 2)
    first, second = Coefficients(step=step, gate=0).weights(6, CPU)
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert first.tolist() == [0, 2, 3] * 2
    assert second.tolist() == [0, 0, 21] * 2


def test_factors_on_which_samples_agree_are_numbers():
    step = StepCoefficients(
        torch.full((1, 3), 2), torch.full((1, 3), 1), torch.tensor([[1, 1, 1]]), 2
    )
    gate = Coefficients(step=step, gate=0)
    assert gate.weights(6, CPU) == (2.0, 0.0)
    assert gate.rates(6, CPU) == (0.5, 1 / 3)
