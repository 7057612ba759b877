"""Export a static plan from a reuse rule that needs no measurement, without running a model."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from dqar.control.entry_state import EntryState
from dqar.gate_table import GateTable
from dqar.gates.base import AllOf, Gate, snr_reader
from dqar.gates.rules import RequireCached
from dqar.records import GateInputs, Step
from dqar.schedules.static_plan import StaticPlan
from dqar.snr import cosine_snr, gate_snr

CPU = torch.device("cpu")


def export_plan(
    gate: Gate,
    *,
    sites: tuple[str, ...],
    num_layers: int | GateTable,
    steps: int | None = None,
    scheduler: Any = None,
    prompt_length: int = 16,
    forecast_order: int | None = None,
    feedback: float | None = None,
) -> StaticPlan:
    """Return the decisions that a reuse rule takes over a whole run, without running a model.

    Args:
        gate: a rule that reads only what is known before a run: step, SNR, layer, site, age and
            number of reuses of a cached value, spans, and the shares of gates that reused. A
            policy trained with ``--features schedule`` is such a rule.
        sites: sites whose result is reused, as in :attr:`dqar.DQARConfig.sites`.
        num_layers: transformer blocks of the model, or the gates of a model whose blocks differ
            (:func:`dqar.integration.gate_table`).
        steps: number of sampling steps, where no scheduler is given; the SNR is then that of a
            cosine schedule, as in :meth:`dqar.DQARController.begin_step`.
        scheduler: a diffusers scheduler whose timesteps are set, in place of ``steps``.
        prompt_length: tokens of the prompt; a rule that reads the prompt length needs one plan
            for each length.
        forecast_order: order of the forecasts that reuse shows, 0 to 2; a value computed less
            often than its order needs is forecast at a lower order. By default the order that
            the rule's policy was trained on, or 0.
        feedback: gain of the error feedback, as :attr:`dqar.DQARConfig.feedback`; by default the
            gain of the rule's policy, or 0.

    Raises:
        ValueError: if the rule reads measurements, decides sample by sample, or was trained with
            another forecast order or gain, or if not exactly one of ``steps`` and ``scheduler``
            is given.
    """
    order = (
        max(_trained(gate, "forecast_order"), default=0)
        if forecast_order is None
        else forecast_order
    )
    gain = max(_trained(gate, "feedback"), default=0.0) if feedback is None else feedback
    for policy in gate.policies:
        policy.spec.refuse_misfit(sites, policy.spec.branch_mode, "output", order, gain)
    if gate.needs:
        raise ValueError(
            f"A plan must come from a gate that measures nothing. Got one that reads "
            f"{sorted(gate.needs)}. Train the policy with --features schedule, or sample with a "
            "DQARController in place of a plan."
        )
    if (steps is None) == (scheduler is None):
        raise ValueError(
            f"Either steps or a scheduler must be given. Got {steps=} and scheduler="
            f"{type(scheduler).__name__}. Pass one of them."
        )
    schedule = _steps_of(scheduler, gate) if steps is None else _plain_steps(steps)
    gates = GateTable.of(sites, num_layers)
    return StaticPlan.of_mask(
        _decisions(gate, EntryState(gates, 1, CPU, order, gain), schedule, prompt_length),
        sites=sites,
        gates=gates,
        forecast_order=order,
        sampler="" if scheduler is None else type(scheduler).__name__,
        timesteps=() if scheduler is None else [step.timestep for step in schedule],
        feedback=gain,
    )


def _trained(gate: Gate, name: str) -> list[Any]:
    return [getattr(policy.spec, name) for policy in gate.policies]


def _plain_steps(total: int) -> list[Step]:
    return [
        Step(index=i, total=total, timestep=float(total - i), snr=cosine_snr(1.0 - i / total))
        for i in range(total)
    ]


def _steps_of(scheduler: Any, gate: Gate) -> list[Step]:
    timesteps = [float(timestep) for timestep in scheduler.timesteps.tolist()]
    total, reader = len(timesteps), snr_reader(gate)
    return [
        Step(
            index=i,
            total=total,
            timestep=timestep,
            snr=gate_snr(scheduler, timestep, reader, step=i),
        )
        for i, timestep in enumerate(timesteps)
    ]


@torch.no_grad()
def _decisions(
    gate: Gate, entry_state: EntryState, schedule: list[Step], prompt_length: int
) -> Bool[Tensor, "t g"]:
    warm = AllOf(gate, RequireCached())
    lengths = entry_state.lengths(prompt_length, 1)
    decided = []
    for step in schedule:
        inputs = entry_state.inputs(step, None, lengths, frozenset())
        reuse = _decided(warm, inputs)
        entry_state.close_step(step, ~reuse, reuse, {})
        decided.append(reuse[:, 0])
    return torch.stack(decided)


def _decided(gate: Gate, inputs: GateInputs) -> Bool[Tensor, "g 1"]:
    try:
        return gate.decide(inputs).reuse
    except RuntimeError as error:  # the gate holds a mask of another number of gates or samples
        reason = " ".join(str(error).split())
        raise ValueError(
            "A plan's gate must decide every gate of every step, for all samples alike. Got: "
            f"{reason}. Export a gate made for these steps, sites and layers, with one threshold "
            "for all samples."
        ) from error
