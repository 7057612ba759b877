"""``cross_branch_threshold``: unconditional rows take the conditional value of close branches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.base import Gate
from dqar.gates.rules import MaskGate, NeverReuse
from dqar.records import DecisionReason, EntryKey

ROUNDING = 1e-5
"""Relative L2 distance within which two orders of the same float32 sums stay over a run."""
NULL = 10
"""Label of the null class; both guidance branches of such a sample are equal."""

by_cached = pytest.mark.parametrize("cached", ["output", "kv"])


def sharing(threshold: float | None = math.inf, **changes: Any) -> DQARConfig:
    values: dict[str, Any] = {
        "sites": ("attn", "ff"),
        "quantization_bits": 32,
        "cross_branch_threshold": threshold,
    }
    return DQARConfig(**(values | changes))


def refusing(rig) -> Gate:
    """A gate that refuses everything, for a reason that allows sharing between branches."""
    return MaskGate(torch.zeros(rig.steps, 1, 1, dtype=torch.bool))


class Seen:
    """The numbers of rows that the modules of the first block computed, and its sites' tensors."""

    def __init__(self, model: Any) -> None:
        block = model.transformer_blocks[0]
        self.rows: dict[str, list[int]] = {"query": [], "key": [], "ff": []}
        self.sites = {"attn": block.attn1, "ff": block.ff}
        self.inputs: dict[str, list[torch.Tensor]] = {"attn": [], "ff": []}
        self.outputs: dict[str, list[torch.Tensor]] = {"attn": [], "ff": []}
        for name, module in (
            ("query", block.attn1.to_q),
            ("key", block.attn1.to_k),
            ("ff", block.ff.net[2]),
        ):
            module.register_forward_hook(
                lambda module, args, output, name=name: self.rows[name].append(len(args[0]))
            )
        for name, module in self.sites.items():
            module.register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Any:
        def hook(module: Any, args: Any, output: torch.Tensor) -> None:
            self.inputs[name].append(args[0])
            self.outputs[name].append(output)

        return hook


def is_one_value(output: torch.Tensor) -> bool:
    cond, uncond = output.chunk(2)
    return torch.equal(cond, uncond)


# Everything is shared.


def test_unconditional_rows_take_the_conditional_output(rig):
    seen = Seen(rig.model)
    ran = rig.run(sharing(), refusing(rig))
    assert seen.rows == {name: [6, 3, 3, 3, 3, 3] for name in ("query", "key", "ff")}
    for outputs in seen.outputs.values():
        assert [is_one_value(output) for output in outputs] == [False] + [True] * 5
    for name, site in seen.sites.items():
        conditional = site(seen.inputs[name][1].chunk(2)[0])
        torch.testing.assert_close(seen.outputs[name][1].chunk(2)[1], conditional)
    whole = 2 * rig.layers * rig.samples
    assert ran.summary.by_reason == {"script": whole, "shared": 5 * whole}
    assert ran.summary.shared_by_site == {"attn": 5 * whole // 2, "ff": 5 * whole // 2}
    assert ran.summary.reused == 0
    assert "90 shared between branches" in ran.summary.note


def test_unconditional_rows_take_the_conditional_keys_and_values(rig):
    seen = Seen(rig.model)
    wrapper = rig.wrap(sharing(cached="kv"), refusing(rig))
    rig.sample(wrapper)
    assert seen.rows["key"] == [6, 3, 3, 3, 3, 3]
    assert seen.rows["query"] == [6] * 6
    assert not any(is_one_value(output) for output in seen.outputs["attn"])
    held = wrapper.controller.cache.fetch(EntryKey("attn", 0))
    assert is_one_value(held.keys)
    assert is_one_value(held.values)


def test_branches_are_measured_again_in_time(rig):
    seen = Seen(rig.model)
    ran = rig.run(sharing(max_gap=2), refusing(rig))
    assert seen.rows["key"] == [6, 3, 3, 6, 3, 3]
    by_step = [reasons.get("shared", 0) for reasons in ran.summary.reasons_by_step]
    assert by_step == [0, 18, 18, 0, 18, 18]


@pytest.mark.parametrize("order", [1, 2])
def test_forecasts_of_a_row_that_shared_are_the_conditional_ones(rig, order):
    """Steps 1 and 3 share, so that their differences are the conditional row's; steps 2, 4 and 5
    show forecasts from these differences."""
    reuse = torch.tensor([0, 0, 1, 0, 1, 1], dtype=torch.bool)[:, None, None]
    seen = Seen(rig.model)
    ran = rig.run(sharing(forecast_order=order), MaskGate(reuse))
    assert {"shared", "reuse"} < set(ran.summary.by_reason)
    for outputs in seen.outputs.values():
        assert [is_one_value(output) for output in outputs] == [False] + [True] * 5


# Nothing is shared.


@by_cached
def test_different_branches_are_not_within_zero(rig, cached):
    plain = rig.run(sharing(None, cached=cached), refusing(rig))
    strict = rig.run(sharing(0.0, cached=cached), refusing(rig))
    assert torch.equal(strict.latents, plain.latents)
    assert strict.summary == plain.summary


def test_closed_gates_share_nothing(rig):
    ran = rig.run(sharing(), NeverReuse())
    assert torch.equal(ran.latents, rig.sample())
    assert list(ran.summary.by_reason) == ["closed"]
    assert torch.equal(rig.run(sharing(enabled=False)).latents, rig.sample())


def test_one_branch_has_nothing_to_share(rig):
    ran = rig.run(sharing(), refusing(rig), guidance=1.0)
    assert torch.equal(ran.latents, rig.sample(guidance=1.0))
    assert list(ran.summary.by_reason) == ["script"]


def test_warmup_and_cooldown_share_nothing(rig):
    config = sharing(entropy_threshold=0.0, warmup_fraction=0.5, cooldown_fraction=0.3)
    ran = rig.run(config)
    names = [list(reasons) for reasons in ran.summary.reasons_by_step]
    assert names[:3] == [["warmup"]] * 3
    assert names[4:] == [["cooldown"]] * 2
    assert "shared" in names[3]


def test_exposure_refuses_to_share():
    with pytest.raises(ValueError, match="Exposure must compute both branches"):
        DQARController(sharing(), exposure=True)


def test_independent_branches_refuse_to_share():
    with pytest.raises(ValueError, match="must come with tied branches"):
        sharing(branch_mode="independent")


# Some share, some reuse, some compute.


def mixed_mask(rig) -> torch.Tensor:
    mask = torch.zeros(rig.steps, 2 * rig.layers, rig.samples, dtype=torch.bool)
    mask[1::2, :, 2] = True
    return mask


@by_cached
def test_one_batch_may_share_reuse_and_compute(rig, cached, distance):
    rig.labels = torch.tensor([NULL, 4, 7])
    seen = Seen(rig.model)
    config = sharing(1e-4, cached=cached)
    ran = rig.run(config, MaskGate(mixed_mask(rig)))
    assert seen.rows["key"] == seen.rows["ff"] == [6, 3, 5, 3, 5, 3]
    samples = ran.reasons[1:].unbind(dim=2)
    assert (samples[0] == DecisionReason.SHARED).all()
    assert (samples[1] == DecisionReason.SCRIPT).all()
    assert torch.equal(samples[2] == DecisionReason.REUSE, mixed_mask(rig)[1:, :, 2])
    # Equal branches lose nothing by being shared.
    unshared = rig.run(sharing(None, cached=cached), MaskGate(mixed_mask(rig)))
    assert distance(ran.latents, unshared.latents) < ROUNDING


@by_cached
def test_samples_of_a_sharing_batch_are_what_they_are_alone(rig, cached, distance):
    config = sharing(0.9, cached=cached)
    mask = rig.mask(config)
    together = rig.run(config, MaskGate(mask))
    assert {DecisionReason.SHARED, DecisionReason.REUSE} < set(together.reasons.flatten().tolist())
    for one in range(rig.samples):
        alone = rig.run(config, MaskGate(mask[..., [one]]), chosen=[one])
        assert torch.equal(alone.reasons[..., 0], together.reasons[..., one])
        assert distance(alone.latents, together.latents[[one]]) < ROUNDING


def test_measured_distance_is_the_branches(rig):
    seen = Seen(rig.model)
    ran = rig.run(sharing(0.0), refusing(rig))
    for step, record in enumerate(ran.records[1:]):
        cond, uncond = seen.outputs["ff"][step].chunk(2)
        apart = (uncond - cond).flatten(1).norm(dim=1) / cond.flatten(1).norm(dim=1)
        torch.testing.assert_close(record.inputs.branch_gap[rig.layers], apart)
        assert (record.inputs.branch_age == 1).all()
    assert ran.records[0].inputs.branch_gap.isnan().all()
