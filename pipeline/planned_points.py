"""Operating points of a policy that plans whole runs.

A plan is only as good as the model of damage behind it. So each is compared with the regular
schedule of as many computations on calibration noise, and where it loses, that takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from dqar.gates import Scripted
from dqar.planned_gate import Planned
from dqar.policy import PolicySpec, ReusePolicy
from pipeline.methods import Grid, Point
from pipeline.tasks import Probe, Probed

NOISES = 8
"""Calibration samples that a schedule is judged by."""
BATCH = 96
"""Samples of a calibration batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A schedule for some number of computations."""

    kind: str
    """``plan`` or ``even``."""
    computed: tuple[int, ...]

    def mask(self, steps: int) -> Bool[Tensor, " t"]:
        """Where it reuses."""
        reuse = torch.ones(steps, dtype=torch.bool)
        reuse[list(self.computed)] = False
        return reuse


def planned_points(
    name: str,
    policy: ReusePolicy,
    grid: Grid,
    ask: Callable[[list[Probe]], dict[str, Probed]],
) -> list[Point]:
    """The better candidate for each reuse ratio of the grid.

    Args:
        ask: answers probes on calibration noise.
    """
    spec = policy.spec
    pairs = [_candidates(spec, number) for number in numbers_of(spec, grid)]
    everyone = [candidate for pair in pairs for candidate in pair]
    errors = _errors(spec, everyone, ask)
    better = [min(pair, key=lambda candidate: errors[everyone.index(candidate)]) for pair in pairs]
    return [_point(name, policy, candidate) for candidate in better]


def numbers_of(spec: PolicySpec, grid: Grid) -> list[int]:
    """Computed steps that the policy has a plan for and the grid asks for."""
    wanted = {round((1.0 - ratio) * spec.steps) for ratio in grid.reuse_ratios}
    return sorted(wanted & {len(plan) for plan in spec.plans})


def even(steps: int, number: int) -> tuple[int, ...]:
    """``number`` steps spread evenly from step 0 on, as a regular interval would."""
    return tuple(index * steps // number for index in range(number))


def _candidates(spec: PolicySpec, number: int) -> tuple[Candidate, Candidate]:
    plan = Candidate(kind="plan", computed=spec.plan_of(number))
    return plan, Candidate(kind="even", computed=even(spec.steps, number))


def _errors(
    spec: PolicySpec,
    candidates: list[Candidate],
    ask: Callable[[list[Probe]], dict[str, Probed]],
) -> list[float]:
    per_batch = BATCH // NOISES
    probes = [
        _probe(spec, candidates[start : start + per_batch], f"{start:06d}")
        for start in range(0, len(candidates), per_batch)
    ]
    answers = ask(probes)
    errors = torch.cat([answers[probe.name].error for probe in probes])
    return errors.view(-1, NOISES).mean(dim=1).tolist()


def _probe(spec: PolicySpec, candidates: list[Candidate], name: str) -> Probe:
    """All candidates side by side, each on the same noises."""
    masks = torch.stack([candidate.mask(spec.steps) for candidate in candidates], dim=1)
    columns = masks.repeat_interleave(NOISES, dim=1)
    return Probe(
        name=name,
        gate=Scripted(columns[:, None, :]),
        num_samples=columns.shape[1],
        noise_ids=tuple(range(NOISES)) * len(candidates),
        forecast_order=spec.forecast_order,
    )


def _point(name: str, policy: ReusePolicy, candidate: Candidate) -> Point:
    spec = policy.spec
    number = len(candidate.computed)
    if candidate.kind == "plan":
        gate = Planned(policy, number)
    else:
        gate = Scripted(candidate.mask(spec.steps)[:, None, None])
    return Point(
        method=name,
        operating_point=f"{candidate.kind}@{number},order={spec.forecast_order}",
        steps=spec.steps,
        gate=gate,
        forecast_order=spec.forecast_order,
    )
