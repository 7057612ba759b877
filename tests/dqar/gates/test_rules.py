from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.config import DQARConfig
from dqar.gate_table import GateTable
from dqar.gates.base import AllOf, Gate
from dqar.gates.paper_cascade import paper_cascade
from dqar.gates.rules import (
    Cooldown,
    EntropyBelow,
    Interval,
    Learned,
    MaskGate,
    MaxReuses,
    NeverReuse,
    RequireCached,
    Scheduled,
    SnrBand,
    Staleness,
    Warmup,
)
from dqar.layer_schedule import LayerSchedule
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from dqar.records import FEATURES, DecisionReason, GateDecision, Step

SHAPE = (3, 2)


def policy(log_threshold: float) -> ReusePolicy:
    torch.manual_seed(0)
    return ReusePolicy(PolicySpec(features=FEATURES, log_threshold=log_threshold))


def at(index: int, snr: float = 1.0) -> Step:
    return Step(index=index, total=10, timestep=500.0, snr=snr)


def full(value) -> torch.Tensor:
    return torch.full(SHAPE, value)


OPEN_AND_SHUT = {
    DecisionReason.COLD: (RequireCached(), {}, {"cached": full(False)}),
    DecisionReason.WARMUP: (Warmup(0.5), {"step": at(5)}, {"step": at(4)}),
    DecisionReason.COOLDOWN: (Cooldown(0.2), {"step": at(7)}, {"step": at(8)}),
    DecisionReason.SCHEDULE: (
        Scheduled(LayerSchedule(schedule_type="step")),
        {"step": at(9)},
        {"layer": torch.full((3,), 2)},
    ),
    DecisionReason.STALE: (Staleness(3), {"gap": full(3)}, {"gap": full(4)}),
    DecisionReason.BUDGET: (MaxReuses(3), {"reuses": full(2)}, {"reuses": full(3)}),
    DecisionReason.ENTROPY: (EntropyBelow(2.0), {"entropy": full(1.99)}, {"entropy": full(2.0)}),
    DecisionReason.SNR: (SnrBand(0.1, 10.0), {"step": at(5, 10.0)}, {"step": at(5, 10.1)}),
    DecisionReason.INTERVAL: (Interval(3), {"step": at(5)}, {"step": at(6)}),
}


@pytest.mark.parametrize("reason", OPEN_AND_SHUT, ids=lambda reason: reason.label)
def test_each_gate_blocks_alone_with_its_own_reason(reason, make_inputs):
    gate, opening, shutting = OPEN_AND_SHUT[reason]
    assert gate.decide(make_inputs(**opening)).reuse.all()
    assert (gate.decide(make_inputs(**shutting)).reason == reason).all()


def test_closed_never_reuses(make_inputs):
    assert (NeverReuse().decide(make_inputs()).reason == DecisionReason.CLOSED).all()


def test_policy_blocks_above_its_threshold(make_inputs):
    assert Learned(policy(1e6)).decide(make_inputs()).reuse.all()
    assert (Learned(policy(-1e6)).decide(make_inputs()).reason == DecisionReason.POLICY).all()


def test_mask_gate_follows_its_mask(make_inputs):
    script = torch.rand(10, *SHAPE, generator=torch.Generator().manual_seed(0)) < 0.5
    for index in range(10):
        decision = MaskGate(script).decide(make_inputs(step=at(index)))
        assert torch.equal(decision.reuse, script[index])
        assert (decision.reason[~script[index]] == DecisionReason.SCRIPT).all()


def test_a_mask_of_another_model_is_refused(make_inputs):
    gates, samples = SHAPE
    script = torch.ones(10, gates + 1, samples, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"the model's {gates} gates. Got one of {gates + 1}"):
        MaskGate(script).decide(make_inputs(step=at(3)))


@pytest.mark.parametrize(
    ("sites", "num_layers"), [(("attn",), 1), (("attn",), 4), (("ff",), 3)], ids=str
)
def test_a_mask_with_a_table_is_of_its_gates_alone(make_inputs, sites, num_layers):
    script = torch.ones(10, 1, 1, dtype=torch.bool)
    inputs = make_inputs(step=at(3))
    assert MaskGate(script, GateTable.regular(("attn",), 3)).decide(inputs).reuse.all()
    with pytest.raises(ValueError, match=r"the same sites in the same layers\. Got one of"):
        MaskGate(script, GateTable.regular(sites, num_layers)).decide(inputs)


def every_gate() -> list[Gate]:
    mask = torch.rand(10, *SHAPE, generator=torch.Generator().manual_seed(1)) < 0.5
    single = [gate for gate, _, _ in OPEN_AND_SHUT.values()]
    cascade = paper_cascade(DQARConfig(), policy(0.0))
    return [*single, NeverReuse(), Learned(policy(0.0)), MaskGate(mask), cascade]


@pytest.mark.parametrize("gate", every_gate(), ids=lambda gate: type(gate).__name__)
def test_gates_are_pure(gate, make_inputs):
    generator = torch.Generator().manual_seed(2)
    inputs = make_inputs(
        entropy=3 * torch.rand(SHAPE, generator=generator),
        gap=torch.randint(0, 9, SHAPE, generator=generator),
    )
    before = copy.deepcopy(inputs)
    decisions = [gate.decide(inputs) for _ in range(2)]
    assert torch.equal(decisions[0].reason, decisions[1].reason)
    assert decisions[0].reason.shape == inputs.shape
    for name in ("entropy", "gap", "cached", "reuses", "layer", "drift", "prompt_length"):
        assert torch.equal(getattr(inputs, name), getattr(before, name)), name


class Random(Gate):
    """A gate that refuses at random with one reason, deterministically."""

    def __init__(self, seed: int, reason: DecisionReason) -> None:
        refused = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) < 0.5
        self.reason = (refused * int(reason)).to(torch.uint8)

    def decide(self, inputs):
        return GateDecision(reason=self.reason)


@given(seeds=st.lists(st.integers(0, 2**31), max_size=4))
def test_first_refusal_gives_the_reason(make_inputs, seeds):
    gates = [Random(seed, DecisionReason(place + 1)) for place, seed in enumerate(seeds)]
    decision = AllOf(*gates).decide(make_inputs())
    for gate in range(SHAPE[0]):
        for sample in range(SHAPE[1]):
            found = [int(one.reason[gate, sample]) for one in gates]
            first = next((reason for reason in found if reason), int(DecisionReason.REUSE))
            assert int(decision.reason[gate, sample]) == first


def test_all_of_needs_what_its_gates_need():
    assert AllOf(NeverReuse(), EntropyBelow(2.0)).needs == {"entropy"}
    assert AllOf(AllOf(Learned(policy(0.0)))).needs == {
        "entropy",
        "log_drift",
        "quant_error",
        "log_latent_norm",
    }
    assert AllOf(RequireCached(), Interval(2)).needs == frozenset()


def test_seed_cascade_asks_in_the_talks_order(make_inputs):
    spoiled = {
        "step": at(1, snr=50.0),
        "layer": torch.full((3,), 2),
        "cached": full(False),
        "gap": full(9),
        "reuses": full(9),
        "entropy": full(9.0),
    }
    fixes = [
        (DecisionReason.WARMUP, {"step": at(5, snr=50.0)}),
        (DecisionReason.SCHEDULE, {"layer": torch.zeros(3, dtype=torch.long)}),
        (DecisionReason.COLD, {"cached": full(True)}),
        (DecisionReason.STALE, {"gap": full(1)}),
        (DecisionReason.BUDGET, {"reuses": full(0)}),
        (DecisionReason.ENTROPY, {"entropy": full(1.0)}),
        (DecisionReason.SNR, {"step": at(5)}),
    ]
    cascade = paper_cascade(DQARConfig(), policy(-1e6))
    for reason, fix in fixes:
        assert (cascade.decide(make_inputs(**spoiled)).reason == reason).all(), reason
        spoiled |= fix
    assert (cascade.decide(make_inputs(**spoiled)).reason == DecisionReason.POLICY).all()
    assert paper_cascade(DQARConfig()).decide(make_inputs(**spoiled)).reuse.all()


def test_disabled_cascade_is_closed(make_inputs):
    decision = paper_cascade(DQARConfig.never()).decide(make_inputs())
    assert (decision.reason == DecisionReason.CLOSED).all()


def first_gate(gate: Gate, inputs) -> list[bool]:
    return gate.decide(inputs).reuse[0].tolist()


def test_thresholds_may_differ_from_sample_to_sample(make_inputs):
    inputs = make_inputs(gap=full(4))
    assert first_gate(Staleness(torch.tensor([3, 4])), inputs) == [False, True]
    assert first_gate(EntropyBelow(torch.tensor([0.5, 1.5])), inputs) == [False, True]
    band = SnrBand(torch.tensor([2.0, 0.5]), torch.tensor([9.0, 9.0]))
    assert first_gate(band, inputs) == [False, True]
    learned = Learned(policy(0.0), log_threshold=torch.tensor([-1e6, 1e6]))
    assert first_gate(learned, inputs) == [False, True]


@given(length=st.integers(1, 512), base=st.floats(0.1, 5.0))
def test_tau_grows_with_the_root_of_the_prompt(make_inputs, length, base):
    tau = base * (length / 16) ** 0.5
    lengths = torch.full((2,), float(length))
    below = make_inputs(prompt_length=lengths, entropy=full(tau * 0.999))
    above = make_inputs(prompt_length=lengths, entropy=full(tau * 1.001))
    assert EntropyBelow(base).decide(below).reuse.all()
    assert not EntropyBelow(base).decide(above).reuse.any()


def test_tau_of_a_class_label_is_the_base(make_inputs):
    below = make_inputs(entropy=full(1.999))
    assert EntropyBelow(2.0).decide(below).reuse.all()


def test_fixed_tau_ignores_the_prompt(make_inputs):
    inputs = make_inputs(prompt_length=torch.tensor([4.0, 64.0]), entropy=full(1.5))
    assert first_gate(EntropyBelow(2.0), inputs) == [False, True]
    assert first_gate(EntropyBelow(2.0, adaptive=False), inputs) == [True, True]


def test_warm_up_is_the_share_rounded_up(make_inputs):
    refused = [not Warmup(0.25).decide(make_inputs(step=at(i))).reuse.any() for i in range(10)]
    assert refused == [True] * 3 + [False] * 7


def test_policy_refuses_what_is_staler_than_its_training(make_inputs):
    torch.manual_seed(0)
    trained = ReusePolicy(PolicySpec(max_gap=3, log_threshold=1e6))
    inputs = make_inputs(gap=torch.tensor([[3, 4]] * 3))
    assert first_gate(Learned(trained), inputs) == [True, False]


@pytest.mark.parametrize(
    ("gate", "unknown"),
    [
        (EntropyBelow(2.0), {"entropy": full(math.nan)}),
        (EntropyBelow(math.inf), {"entropy": full(math.nan)}),
        (SnrBand(0.0, math.inf), {"step": at(5, math.nan)}),
        (Learned(policy(1e6)), {"entropy": full(math.nan)}),
    ],
)
def test_what_is_not_a_number_is_refused(gate, unknown, make_inputs):
    assert gate.decide(make_inputs()).reuse.all()
    assert not gate.decide(make_inputs(**unknown)).reuse.any()


def test_entropy_that_was_never_measured_is_refused(make_inputs):
    decision = EntropyBelow(math.inf).decide(make_inputs(entropy=full(0.0)))
    assert (decision.reason == DecisionReason.ENTROPY).all()


def test_feed_forward_has_no_entropy_to_wait_for(make_inputs):
    inputs = make_inputs(num_sites=2, entropy=torch.zeros(6, 2))
    reuse = EntropyBelow(2.0).decide(inputs).reuse
    assert not reuse[:3].any()
    assert reuse[3:].all()


@pytest.mark.parametrize(("fraction", "total"), [(0.14, 50), (0.28, 25), (0.07, 100), (0.55, 100)])
def test_shares_of_steps_are_not_one_more_for_their_rounding(fraction, total, make_inputs):
    whole = round(fraction * total)
    for index, is_open in ((whole, True), (whole - 1, False)):
        early = Step(index=index, total=total, timestep=1.0, snr=1.0)
        late = Step(index=total - 1 - index, total=total, timestep=1.0, snr=1.0)
        assert Warmup(fraction).decide(make_inputs(step=early)).reuse.all() == is_open
        assert Cooldown(fraction).decide(make_inputs(step=late)).reuse.all() == is_open


def test_a_cascade_names_its_policies():
    known = policy(0.0)
    assert paper_cascade(DQARConfig(), known).policies == (known,)
    assert AllOf(Interval(2), AllOf(Learned(known))).policies == (known,)
    assert paper_cascade(DQARConfig()).policies == ()
