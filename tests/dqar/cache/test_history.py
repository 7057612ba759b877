"""Histories of cache entries: in place, by row, lent, their bytes, and under manual control."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dqar.cache.forecast_coefficients import Coefficients, ManualForecastHistory, StepCoefficients
from dqar.cache.history import History
from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.base import Gate
from dqar.gates.rules import Interval, MaskGate, RequireCached
from dqar.records import DecisionReason, EntryKey, PartKey

KEY, OTHER = EntryKey("attn", 0, "cond"), EntryKey("attn", 0, "uncond")
BIT_WIDTHS = [2, 4, 8, 16, 32]
every_width = pytest.mark.parametrize("bits", BIT_WIDTHS)
every_order = pytest.mark.parametrize("order", [1, 2])


def history_of(bits: Any = 32, order: int = 2, balance: Any = None, **changes: Any) -> History:
    config = DQARConfig(quantization_bits=bits, **changes)
    return History.of(config.cache_formats(None), balance, order)


def at(gap: list[int], span: list[int], order: list[int], kept: int = 2) -> Coefficients:
    """Coefficients of one gate, with gap, span and order by sample."""
    gap_at, span_at, order_at = (torch.tensor([values]) for values in (gap, span, order))
    return Coefficients(step=StepCoefficients(gap_at, span_at, order_at, kept), gate=0)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]


def shown(history: History, key: EntryKey, coefficients: Coefficients | None) -> list[float]:
    return history.read(key, coefficients)["output"].flatten().tolist()


# The cache.


@every_width
@every_order
def test_memory_counts_every_difference(bits, order):
    value = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    plain, keeping = history_of(bits, 0), history_of(bits, order)
    for history in (plain, keeping):
        history.store(KEY, {"output": value})
    assert keeping.nbytes == (1 + order) * plain.nbytes > 0


@every_width
def test_addresses_of_differences_are_stable(bits):
    history, seen = history_of(bits), []
    for step in range(3):
        value = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(step))
        history.store(KEY, {"output": value}, at([1, 1], [max(0, step - 1)] * 2, [0, 0]))
        caches = (history.values, *history.differences)
        seen.append([cache._parts[KEY]["output"].values.data_ptr() for cache in caches])
    assert seen[0] == seen[1] == seen[2]
    assert len(set(seen[0])) == 3


def test_differences_have_scales_of_their_own():
    history = history_of(8)
    history.store(KEY, {"output": column(100.0, 100.0)})
    history.store(KEY, {"output": column(100.0, 101.0)}, at([1, 1], [0, 0], [1, 1]))
    kept = history.differences[0].read(KEY)["output"]
    # With the value's scale, 100 / 127, all numbers between 0.4 and 1.1 would get one code.
    torch.testing.assert_close(kept, column(0.0, 1.0), atol=1e-4, rtol=1e-2)


def test_rows_that_compute_alone_leave_the_past_of_others():
    history = history_of()
    history.store(KEY, {"output": column(1.0, 10.0)})
    history.store(KEY, {"output": column(2.0, 20.0)}, at([1, 1], [0, 0], [1, 1]))
    rows = torch.tensor([1])
    history.store(KEY, {"output": column(50.0)}, at([2, 2], [1, 1], [2, 2]), rows)
    assert shown(history, KEY, None) == [2.0, 50.0]
    # Row 0 grows by 1 a step. Row 1 grew by 15, and its second difference is (15 - 10) / 3.
    now = at([3, 1], [1, 2], [1, 2])
    assert shown(history, KEY, now) == pytest.approx([5.0, 50 + 15 + 3 * 5 / 3])


def test_rows_that_took_anothers_value_go_on_from_its_past():
    history = history_of(order=1)
    history.store(KEY, {"output": column(1.0, 5.0)})
    taken = {"output": column(2.0, 2.0)}
    both, donors = torch.tensor([0, 1]), torch.tensor([0, 0])
    history.store(KEY, taken, at([1], [0], [1], 1), both, donors)
    # Continued from its own history, row 1 would fall by 3 a step.
    assert shown(history, KEY, at([1], [1], [1], 1)) == [3.0, 3.0]


def test_a_lent_entry_holds_the_lenders_past():
    history = history_of(8)
    for step, value in enumerate((column(1.0), column(3.0), column(7.0))):
        history.store(KEY, {"output": value}, at([1], [int(step > 1)], [0]) if step else None)
    history.lend(KEY, OTHER)
    now = at([1], [1], [2])
    assert shown(history, OTHER, now) == shown(history, KEY, now)
    history.store(KEY, {"output": column(0.0)}, now)
    assert shown(history, OTHER, None) == pytest.approx([7.0])


@pytest.mark.parametrize("changed", [(1, 4, 6), (2, 3, 6)])
def test_a_value_of_another_shape_has_differences_of_zero(changed):
    history, now = history_of(), at([1], [1], [2])
    for shape in ((2, 4, 6), (2, 4, 6), changed):
        history.store(KEY, {"output": torch.rand(shape)}, now)
    assert torch.equal(history.read(KEY, now)["output"], history.read(KEY)["output"])


def test_what_is_fetched_is_the_callers_own():
    history, now = history_of(), at([1], [1], [0])
    history.store(KEY, {"output": column(1.0)})
    found = history.fetch(KEY, now).output
    assert found is not None
    found.zero_()
    assert shown(history, KEY, None) == [1.0]


def test_differences_are_balanced_like_their_values():
    balance = {PartKey("attn", 0, "output"): torch.tensor([4.0, 0.25])}
    history = history_of(8, balance=balance)
    history.store(KEY, {"output": torch.tensor([[[1.0, 16.0]]])})
    for cache in (history.values, *history.differences):
        assert cache._parts[KEY]["output"].balance is balance[PartKey("attn", 0, "output")]


# Manual control.


class Hand:
    """One layer under manual control."""

    def __init__(self, order: Any, gate: Gate | None = None, **options: Any) -> None:
        config = DQARConfig(quantization_bits=32, forecast_order=order)
        self.controller = DQARController(
            config, num_layers=1, gate=gate or RequireCached(), **options
        )
        self.samples = len(options.get("forecast_order", [0]))

    def begin(self, step: int) -> None:
        self.controller.begin_step(step, 12, num_samples=self.samples)

    def commit(self, value: float, branch: str = "cond") -> None:
        self.controller.commit(0, branch, output=column(*[value] * self.samples))

    def reuse(self, branch: str = "cond") -> list[float]:
        decision = self.controller.should_reuse(0, branch)
        assert decision
        output = self.controller.reuse(decision.entry)[2]
        assert output is not None
        return output.flatten().tolist()

    def square(self, *steps: int) -> None:
        """Commit, at each given step, the square of the step."""
        for step in steps:
            self.begin(step)
            self.commit(float(step**2))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_verbs_forecast(order):
    hand = Hand(order)
    hand.square(0, 1, 4)
    # The line through 1 at step 1 and 16 at step 4 rises by 5 a step.
    for step, expected in ((6, [16.0, 26.0, 36.0]), (7, [16.0, 31.0, 49.0])):
        hand.begin(step)
        assert hand.reuse() == pytest.approx([expected[order]])


def test_verbs_forecast_each_sample_at_its_order():
    hand = Hand(2, forecast_order=torch.tensor([2, 0, 1]))
    hand.square(0, 1, 4)
    hand.begin(6)
    assert hand.reuse() == pytest.approx([36.0, 16.0, 26.0])


def test_by_hand_each_branch_goes_on_from_its_own_computations():
    # At step 2 one branch computes although both may reuse: the state keeps the older step.
    hand = Hand(1, MaskGate(torch.ones(12, 1, 1, dtype=torch.bool)))
    for step in (0, 1):
        hand.begin(step)
        hand.commit(float(step))
        hand.commit(10.0 * step, "uncond")
    hand.begin(2)
    hand.commit(2.0)
    assert hand.reuse("uncond") == [20.0]
    hand.begin(5)
    assert (hand.reuse(), hand.reuse("uncond")) == ([5.0], [50.0])


def test_a_lent_branch_goes_on_as_its_lender():
    script = torch.tensor([0, 0, *[1] * 10], dtype=torch.bool)[:, None, None]
    config = DQARConfig(quantization_bits=32, forecast_order=1, cross_branch_threshold=10.0)
    hand = Hand(1)
    hand.controller = DQARController(config, num_layers=1, gate=MaskGate(script))
    hand.begin(0)
    hand.commit(1.0)
    hand.commit(1.5, "uncond")
    hand.begin(1)
    hand.commit(2.0)
    assert hand.controller.should_reuse(0, "uncond").reasons == (DecisionReason.SHARED,)
    assert hand.reuse("uncond") == [2.0]
    hand.begin(2)
    assert (hand.reuse(), hand.reuse("uncond")) == ([3.0], [3.0])


def test_an_entry_committed_twice_in_a_step_has_differences_of_zero():
    chronicle = ManualForecastHistory(torch.tensor([2]), 2)
    chronicle.note(KEY, 0)
    chronicle.note(KEY, 1)
    chronicle.note(KEY, 1)
    found = chronicle.coefficients(KEY, 3)
    assert found is not None
    assert found.weights(1, torch.device("cpu")) == (0.0, 0.0)


def test_orders_must_be_one_a_sample():
    controller = DQARController(
        DQARConfig(forecast_order=1),
        num_layers=1,
        gate=Interval(2),
        forecast_order=torch.tensor([1, 0]),
    )
    with pytest.raises(ValueError, match="one order a sample"):
        controller.begin_step(0, 4, num_samples=3)
