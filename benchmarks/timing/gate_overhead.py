"""Overhead of gates that measure and decide, against a mask that replays the same decisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from benchmarks.timing.forced_reuse import beside_bounds
from benchmarks.timing.support.architectures import Architecture
from benchmarks.timing.support.interleaved_rounds import Rounds, Variant
from benchmarks.timing.support.median_interval import figures_of, to_digits
from benchmarks.timing.support.reuse_masks import ratio_of_mask
from benchmarks.timing.support.timed_model import STEPS, Schedule, TimedModel, name_of
from dqar import DQARConfig, DQARController, PolicySpec, ReusePolicy
from dqar.gates.base import Gate
from dqar.gates.paper_cascade import paper_cascade
from dqar.gates.rules import Learned, MaskGate
from dqar.records import FEATURE_SETS, GateRecord

SITES = ("attn", "ff")
SURE = 1e9
"""Threshold above any predicted damage, with which a policy always chooses to reuse."""
MEMBERS = 5
"""Networks of the timed policies; training makes 4 by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decider:
    """A gate that decides by measured features."""

    name: str
    gate: Gate
    note: str
    """Difference from a gate that a user runs, written to the result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """Decisions of a gate on this model, and the names of its two timed variants."""

    decider: Decider
    mask: Bool[Tensor, "t g b"]

    @property
    def named(self) -> str:
        """Name of the variant that decides."""
        return name_of(self.decider.name, SITES)

    @property
    def replayed(self) -> str:
        """Name of the variant that replays the decisions."""
        return name_of(f"replayed {self.decider.name}", SITES)


def deciders(feature_sets: Iterable[str]) -> Iterator[Decider]:
    """Yield the DQAR paper's threshold cascade and a learned policy for each set of features.

    Weights are random; the run time of a network does not depend on their values.
    """
    yield Decider(
        name="threshold",
        gate=paper_cascade(_open_thresholds()),
        note="the DQAR paper's cascade, entropy and SNR let through, gap at most 1",
    )
    for features in feature_sets:
        yield Decider(
            name=f"learned {features}",
            gate=Learned(forced_policy(features), log_threshold=SURE),
            note=f"random weights, {MEMBERS} networks, made to reuse every second step",
        )


def _open_thresholds() -> DQARConfig:
    infinite = float("inf")
    return DQARConfig(sites=SITES, entropy_threshold=1e9, snr_low=0.0, snr_high=infinite, max_gap=1)


def forced_policy(features: str, sites: tuple[str, ...] = SITES) -> ReusePolicy:
    """Policy with :data:`MEMBERS` networks of random weights that refuses gaps above 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = PolicySpec(
            features=FEATURE_SETS[features],
            members=MEMBERS,
            granularity="step",
            max_gap=1,
            sites=sites,
        )
        return ReusePolicy(spec).eval().requires_grad_(False)


def decide_all(timed_model: TimedModel, feature_sets: Iterable[str]) -> list[Decided]:
    """Run each gate of :func:`deciders` once and record its decisions."""
    return [
        Decided(decider=found, mask=mask_chosen(timed_model, found.gate))
        for found in deciders(feature_sets)
    ]


@torch.no_grad()
def mask_chosen(timed_model: TimedModel, gate: Gate) -> Bool[Tensor, "t g b"]:
    """Decisions of a gate in a run of a first step and :data:`STEPS` timed ones."""
    records: list[GateRecord] = []
    controller = DQARController(timed_model.config(SITES), gate=gate, sink=records.append)
    wrapper, schedule = timed_model.wrapper(SITES), Schedule(STEPS)
    with wrapper.run(schedule, num_branches=2, controller=controller):
        for timestep in schedule.timesteps.tolist():
            timed_model.batch.call(wrapper, timestep)
    return torch.stack([record.decision.reuse for record in records])


def deciding_variants(timed_model: TimedModel, decided: list[Decided]) -> Iterator[Variant]:
    """Yield each gate, and a mask that replays its decisions."""
    for found in decided:
        yield timed_model.patched(found.named, SITES, found.decider.gate)
        yield timed_model.patched(found.replayed, SITES, MaskGate(found.mask))


def deciding_figures(
    rounds: Rounds, sizes: Architecture, decided: list[Decided]
) -> list[dict[str, Any]]:
    """One row for each gate; ``overhead`` is its time over that of the replayed decisions."""
    return [_figures(rounds, sizes, found) for found in decided]


def _figures(rounds: Rounds, sizes: Architecture, found: Decided) -> dict[str, Any]:
    ratio = ratio_of_mask(found.mask)
    return {
        "policy": found.decider.name,
        "note": found.decider.note,
        "sites": ",".join(SITES),
        "reuse_ratio": to_digits(ratio),
        **beside_bounds(rounds, sizes, SITES, ratio, found.named),
        **figures_of("overhead", rounds.ratio(found.named, found.replayed)),
    }
