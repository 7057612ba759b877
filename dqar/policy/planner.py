"""Plan by dynamic programming the best steps to compute, for every number of computed steps.

All gates of a step compute together or not at all. A state is a computed step together with the
two spans (steps between computations) before it, on which a forecast depends. A transition is the
gap to the next computed step, and its cost is the predicted damage of the steps between. The total
over a run is the quantity that :mod:`pipeline.train.damage_model` fits, so a plan is optimal under
that model.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dqar.gate_table import GateTable
from dqar.policy.network import ReusePolicy
from dqar.records import FEATURE_SETS, GateInputs, Step
from dqar.step_schedule import ReuseSetting, ScoredSchedule, StepSchedule

BATCH_ROWS = 200_000
"""Number of hypothetical gates whose damage is predicted in one forward pass."""


def plan_steps(
    policy: ReusePolicy,
    snrs: list[float],
    order: int,
    max_gap: int,
    max_stretch: float = math.inf,
    feedback: float = 0.0,
) -> list[ScoredSchedule]:
    """Return the best schedule for each number of computed steps, fewest first.

    Args:
        policy: predicts log damage from features that are known before a run.
        snrs: signal-to-noise ratio of each step.
        order: order of the forecasts that reuse shows.
        max_gap: largest number of steps since the last computation to consider.
        max_stretch: with forecasts, the largest ratio of a gap to the span before it, and of two
            successive spans to each other. Larger ratios are excluded, since exploration did not
            sample them and the policy's prediction there is an extrapolation.
        feedback: gain of the runs' error feedback.

    Raises:
        ValueError: if the policy reads a feature that is only known during a run.
    """
    damage = step_damage(policy, snrs, order, max_gap, feedback)
    damage = damage.masked_fill(_is_unknown(damage, order, max_stretch), math.inf)
    return _solve(damage, (order, feedback))


def _is_unknown(
    damage: Float[Tensor, "t k s c"], order: int, max_stretch: float
) -> Bool[Tensor, "k s c"]:
    """Mask of the (gap, span, span before) states outside the explored ratios; all false without
    forecasts, which alone depend on the spans."""
    gap = torch.arange(1, damage.shape[1] + 1)[:, None, None]
    span, before = torch.arange(damage.shape[2])[:, None], torch.arange(damage.shape[3])
    is_long = (span > 0) & (gap > max_stretch * span)
    longer, shorter = torch.maximum(span, before), torch.minimum(span, before)
    is_uneven = (shorter > 0) & (longer > max_stretch * shorter)
    return (is_long | is_uneven) & (order > 0)


def step_damage(
    policy: ReusePolicy, snrs: list[float], order: int, max_gap: int, feedback: float = 0.0
) -> Float[Tensor, "t k s c"]:
    """Predict the damage of a step that reuses, all its gates together.

    Indexed by step, gap since the last computation (from 1), span between the last two
    computations, and the span before that one; a span of 0 means too few computations.

    Raises:
        ValueError: if the policy reads a feature that is only known during a run.
    """
    _refuse_measured(policy)
    gaps, spans = torch.arange(1, max_gap + 1), torch.arange(max_gap + 2)
    states = torch.cartesian_prod(gaps, spans, spans)
    shape = (len(gaps), len(spans), len(spans))
    rows = []
    for index, snr in enumerate(snrs):
        step = Step(index=index, total=len(snrs), timestep=0.0, snr=snr)
        rows.append(_of_step(policy, step, states, order, feedback).view(shape))
    return torch.stack(rows)


def _refuse_measured(policy: ReusePolicy) -> None:
    measured = set(policy.spec.features) - set(FEATURE_SETS["schedule"])
    if measured:
        raise ValueError(
            f"A plan must be made from what is known before a run. Got {sorted(measured)}. "
            "Train the policy with --features schedule."
        )


@torch.no_grad()
def _of_step(
    policy: ReusePolicy, step: Step, states: Int[Tensor, "n 3"], order: int, feedback: float
) -> Float[Tensor, " n"]:
    spec = policy.spec
    # Without the feature depth all layers have one prediction, which is multiplied.
    whole = GateTable.regular(spec.sites, max(1, spec.num_layers))
    gates = whole if "depth" in spec.features else GateTable.regular(spec.sites, 1)
    repeats = whole.num_gates / gates.num_gates
    damage = [
        policy(_hypothetical(gates, step, few, order, feedback).columns(spec.features))
        for few in states.split(max(1, BATCH_ROWS // gates.num_gates))
    ]
    return torch.cat(damage, dim=1).exp().sum(dim=0) * repeats


def _hypothetical(
    gates: GateTable,
    step: Step,
    states: Int[Tensor, "n 3"],
    order: int,
    feedback: float,
) -> GateInputs:
    """Inputs of all gates of a step, one column for each (gap, span, span before) state."""
    shape = (gates.num_gates, len(states))
    gap, span, before = (column.expand(shape) for column in states.T)
    zeros, per_column = torch.zeros(shape), torch.zeros(shape[1])
    return GateInputs(
        step=step,
        num_layers=gates.num_layers,
        site=gates.site_codes,
        layer=gates.layers,
        cached=torch.ones(shape, dtype=torch.bool),
        gap=gap,
        reuses=gap - 1,
        span=span,
        span_before=before,
        order=((span > 0).long() + ((span > 0) & (before > 0))).clamp(max=order),
        feedback=torch.full_like(per_column, feedback),
        entropy=zeros,
        drift=zeros,
        quant_error=zeros,
        branch_gap=zeros,
        branch_age=gap,
        log_latent_norm=per_column,
        prompt_length=per_column,
        share_attn=per_column,
        share_ff=per_column,
    )


def _solve(damage: Float[Tensor, "t k s c"], setting: ReuseSetting) -> list[ScoredSchedule]:
    """Solve Bellman's recursion over the number of computed steps.

    ``best[t, s, c]`` is the least damage of the steps before step ``t``, which computes, where the
    last span is ``s`` and the one before it ``c``. The ``c`` that attains each minimum is kept to
    trace the schedule back.
    """
    until = _until_next(damage)
    steps, spans = len(damage), damage.shape[2]
    best = torch.full((steps, spans, spans), math.inf, dtype=torch.float64)
    best[0, 0, 0] = 0.0
    ways: list[Int[Tensor, "t s c"]] = []
    plans = []
    for _ in range(steps):
        total = best + until[torch.arange(steps), :, :, _gap_to_end(steps, until)]
        if total.isfinite().any():
            plans.append(_read_back(total, ways, setting))
        best, way = _advance(best, until)
        ways.append(way)
    return plans


def _until_next(damage: Float[Tensor, "t k s c"]) -> Float[Tensor, "t s c j"]:
    """Damage of the steps between a computed step and the next computed one ``j`` steps later.
    The last index stands for every gap above the largest, and is infinite."""
    steps, gaps, spans, _ = damage.shape
    until = torch.zeros(steps, spans, spans, gaps + 3, dtype=torch.float64)
    until[..., 0] = until[..., -1] = math.inf
    for gap in range(1, gaps + 1):
        # The end of the run counts as a computed step after the last, which closes the last gap.
        stale = torch.full((steps, spans, spans), math.inf, dtype=torch.float64)
        stale[: steps - gap] = damage[gap:, gap - 1].double()
        until[..., gap + 1] = until[..., gap] + stale
    return until


def _gap_to_end(steps: int, until: Tensor) -> Int[Tensor, " t"]:
    return (steps - torch.arange(steps)).clamp(max=until.shape[-1] - 1)


def _advance(
    best: Float[Tensor, "t s c"], until: Float[Tensor, "t s c j"]
) -> tuple[Float[Tensor, "t s c"], Int[Tensor, "t s c"]]:
    """Extend every state by one computed step; return the damages and the minimising spans."""
    longest = best.shape[1] - 1
    new = torch.full_like(best, math.inf)
    way = torch.zeros(best.shape, dtype=torch.long)
    for gap in range(1, min(longest, len(best) - 1) + 1):
        cost, before = (best + until[..., gap]).min(dim=2)
        new[gap:, gap] = cost[:-gap]
        way[gap:, gap] = before[:-gap]
    return new, way


def _read_back(
    total: Float[Tensor, "t s c"], ways: list[Int[Tensor, "t s c"]], setting: ReuseSetting
) -> ScoredSchedule:
    spans = total.shape[1]
    place = int(total.argmin())
    step, span, before = place // spans**2, place // spans % spans, place % spans
    computed = [step]
    for way in reversed(ways):
        earlier = int(way[step, span, before])
        step, span, before = step - span, before, earlier
        computed.append(step)
    order, gain = setting
    schedule = StepSchedule(computed=tuple(reversed(computed)), forecast_order=order, feedback=gain)
    return ScoredSchedule(schedule=schedule, error=math.sqrt(float(total.flatten()[place])))
