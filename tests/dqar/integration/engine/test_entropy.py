"""Entropy of any softmax attention is measured where the kernel is called, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from dqar.gates.rules import EntropyBelow, Interval, MaskGate, NeverReuse
from dqar.integration.run_slot import RunSlot
from dqar.integration.sites import refuse_misfits
from dqar.records import FEATURES
from tests.dqar.integration.engine.driver import STEPS, Sampled, sample
from tests.dqar.integration.engine.models import CASES

ENTROPY = FEATURES.index("entropy")
EVERYONE = [0, 1, 2]
ALL_ROWS = 10_000


def by_hand(case: Any, model: Any, monkeypatch: Any) -> list[torch.Tensor]:
    """Entropy of every kernel call, from the map of the attention itself, mean over heads and
    queries."""
    found: list[torch.Tensor] = []
    kernel = functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **options):
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5)
        if attn_mask is not None:
            is_bool = attn_mask.dtype == torch.bool
            bias = torch.zeros(attn_mask.shape).masked_fill(~attn_mask, -1e30) if is_bool else 0
            scores = scores + (bias if is_bool else attn_mask)
        weights = scores.softmax(dim=-1)
        found.append(torch.special.entr(weights).sum(dim=-1).mean(dim=(1, 2)))
        return kernel(query, key, value, attn_mask, dropout_p, is_causal, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    sample(case, model, EVERYONE)
    monkeypatch.undo()
    return found


@pytest.mark.parametrize(
    ("name", "per_step", "layers"),
    [
        ("flux", 5, [0, 1, 2, 3, 4]),
        ("ltx", 6, [0, 2, 4]),
        ("sd3", 4, [0, 2, 3]),
        ("dit", 3, [0, 1, 2]),
    ],
)
def test_entropy_is_that_of_the_kernels_arguments(monkeypatch, name, per_step, layers):
    case = CASES[name]
    model = case.build()
    records: list[Any] = []
    config = Sampled.config(("attn",), entropy_rows=ALL_ROWS)
    Sampled(case, model, ("attn",), NeverReuse(), EVERYONE, config=config, sink=records.append)
    found = by_hand(case, model, monkeypatch)
    assert len(found) == per_step * STEPS
    for step in range(1, STEPS):
        # A gate sees the entropy of the step before.
        calls = found[(step - 1) * per_step : step * per_step]
        expected = torch.stack([calls[layer] for layer in layers])
        seen = records[step].inputs.columns(FEATURES)[..., ENTROPY]
        torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")
@pytest.mark.parametrize("name", ["flux", "latte", "mochi", "pixart"])
def test_a_block_and_a_stack_have_the_entropy_of_their_attention(name):
    case = CASES[name]
    model = case.build()

    def entropies(sites: tuple[str, ...]) -> torch.Tensor:
        records: list[Any] = []
        Sampled(case, model, sites, NeverReuse(), EVERYONE, sink=records.append)
        return torch.stack([one.inputs.columns(FEATURES)[..., ENTROPY] for one in records])[1:]

    attention = entropies(("attn",))
    assert attention.min() > 0
    torch.testing.assert_close(entropies(("block",)), attention)
    if ("stack",) in case.sites:
        stacks = entropies(("stack",))
        assert stacks.min() > 0
        if stacks.shape[1] == 1:
            torch.testing.assert_close(stacks, attention.mean(dim=1, keepdim=True))


def test_rows_that_were_computed_too_do_not_count():
    """Arguments of SD3's attention that no family declares: all rows compute, some are measured."""
    case, model = CASES["sd3"], CASES["sd3"].build()
    mask = torch.zeros(STEPS, 1, 3, dtype=torch.bool)
    mask[1:, :, 0] = True

    def entropies(chosen: list[int], extra: bool) -> torch.Tensor:
        def with_extra(module: Any, args: Any, kwargs: Any) -> Any:
            del module
            ignored = {"joint_attention_kwargs": {"attention_mask": None, "scale": torch.ones(3)}}
            return args, kwargs | (ignored if extra else {})

        handles = [
            block.register_forward_pre_hook(with_extra, with_kwargs=True)
            for block in model.transformer_blocks
        ]
        records: list[Any] = []
        gate = MaskGate(mask[..., chosen])
        Sampled(case, model, ("block",), gate, chosen, sink=records.append)
        for handle in handles:
            handle.remove()
        return torch.stack([one.inputs.columns(FEATURES)[..., ENTROPY] for one in records])

    together = entropies(EVERYONE, True)
    torch.testing.assert_close(together, entropies(EVERYONE, False), atol=1e-5, rtol=1e-5)


def test_gates_that_need_entropy_are_refused_where_it_is_unknown():
    case, model = CASES["sana"], CASES["sana"].build()
    expected = "must come with attention whose entropy can be measured. Got Attention"
    for sites in (("attn",), ("block",), ("stack",)):
        with pytest.raises(ValueError, match=expected):
            Sampled(case, model, sites, EntropyBelow(2.0), EVERYONE)
        controller = Sampled(case, model, sites, Interval(2), EVERYONE).controller
        slot = RunSlot(sites, "output")
        refuse_misfits(model, slot, controller)
        controller.gate = EntropyBelow(2.0)
        with pytest.raises(ValueError, match=expected):
            refuse_misfits(model, slot, controller)
    Sampled(case, model, ("ff",), EntropyBelow(2.0), EVERYONE)
    Sampled(case, model, ("cross",), EntropyBelow(2.0), EVERYONE)
