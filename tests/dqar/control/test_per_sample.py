"""A gate restricted to some samples of a batch decides these samples as the whole gate does."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.config import DQARConfig
from dqar.control.per_sample import gate_for
from dqar.gates.base import AllOf, Gate
from dqar.gates.paper_cascade import paper_cascade
from dqar.gates.rules import (
    EntropyBelow,
    Interval,
    Learned,
    MaskGate,
    RequireCached,
    SnrBand,
    Staleness,
)
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec

LAYERS, SAMPLES, STEPS = 3, 6, 10
MEASURED = {
    "entropy": 3 * torch.rand(LAYERS, SAMPLES, generator=torch.Generator().manual_seed(1)),
    "gap": torch.randint(1, 5, (LAYERS, SAMPLES), generator=torch.Generator().manual_seed(2)),
}


def gates(seed: int) -> list[Gate]:
    generator = torch.Generator().manual_seed(seed)

    def by_sample(scale: float) -> torch.Tensor:
        return scale * torch.rand(SAMPLES, generator=generator)

    script = torch.rand(STEPS, LAYERS, SAMPLES, generator=generator) < 0.5
    apart = [
        Staleness(torch.randint(1, 5, (SAMPLES,), generator=generator)),
        EntropyBelow(by_sample(3.0)),
        SnrBand(by_sample(2.0), by_sample(2.0) + 1.0),
        Learned(ReusePolicy(PolicySpec(sites=("attn",))), log_threshold=by_sample(4.0) - 2.0),
        MaskGate(script),
    ]
    alike = [
        Interval(2),
        MaskGate(script[:, :, :1]),
        MaskGate(script[:, :1, :1]),
        SnrBand(0.1, 2.0),
    ]
    return [*apart, *alike, AllOf(RequireCached(), AllOf(*apart[:2])), paper_cascade(DQARConfig())]


@given(
    seed=st.integers(0, 2**31), start=st.integers(0, SAMPLES - 1), length=st.integers(1, SAMPLES)
)
def test_a_part_of_a_batch_is_decided_as_in_the_whole(make_inputs, seed, start, length):
    samples = slice(start, min(start + length, SAMPLES))
    few = {name: value[:, samples] for name, value in MEASURED.items()}
    whole = make_inputs(num_samples=SAMPLES, **MEASURED)
    part = make_inputs(num_samples=samples.stop - start, **few)
    for gate in gates(seed):
        expected = gate.decide(whole).reason[:, samples]
        assert torch.equal(gate_for(gate, samples).decide(part).reason, expected), gate


def test_the_whole_gate_is_left_as_it_was():
    limits = torch.arange(SAMPLES)
    gate = Staleness(limits)
    assert gate_for(gate, slice(0, 2)) is not gate
    assert gate.max_gap is limits
