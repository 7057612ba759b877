"""Columns of the trajectories table and of the gates table, from the log of one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqar.config import CACHE_DTYPES
from dqar.control.step_control import CLASS_PROMPT_LENGTH
from dqar.records import ACTIONS, FEATURES, SITES, DecisionReason, GateRecord
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.exploration.designs import RandomSchedule
from pipeline.models.image_metrics import Deltas

Columns = dict[str, Any]
"""Column name to one value a row, or to a single value that all rows share."""


def trajectory_columns(
    plan: CollectPlan,
    device: str,
    ids: list[str],
    noise_ids: list[int],
    labels: Tensor,
    schedules: list[RandomSchedule],
    orders: list[int],
    feedback: Tensor,
    deltas: Deltas,
) -> Columns:
    """Return the columns of the trajectories table.

    Args:
        orders: forecast order of each trajectory; 0 shows cached values.
        feedback: gain of the error feedback of each trajectory.
    """
    distance = deltas.feature_distance
    return {
        "trajectory_id": ids,
        "noise_id": noise_ids,
        "label": labels.cpu().numpy(),
        "prompt": None,
        "prompt_length": CLASS_PROMPT_LENGTH,
        "design": [schedule.design for schedule in schedules],
        "exploration_rate": [schedule.rate for schedule in schedules],
        "max_gap": [schedule.max_gap for schedule in schedules],
        "forecast_order": orders,
        "feedback": feedback.numpy(),
        "latent_rel_l2": deltas.latent_rel_l2.cpu().numpy(),
        "psnr": deltas.psnr.cpu().numpy(),
        "ssim": deltas.ssim.cpu().numpy(),
        "feature_distance": None if distance is None else distance.cpu().numpy(),
        "model": plan.model,
        "model_hash": plan.model_hash,
        "sampler": plan.sampler,
        "steps": plan.steps,
        "guidance": plan.guidance_scale,
        "cache_mode": CACHE_DTYPES[plan.cache_bits],
        "dtype": plan.dtype,
        "device": device,
        "schema_version": plan.schema_version,
    }


def gate_columns(
    plan: CollectPlan, ids: list[str], schedules: list[RandomSchedule], records: list[GateRecord]
) -> Columns:
    """Return the columns of the gates table: one row for each reuse decision, which is one
    (trajectory, step, layer, site), ordered by trajectory, step and gate."""
    shape = (len(ids), len(records), records[0].inputs.shape[0])
    cached = _by_trajectory([record.inputs.cached for record in records])
    gap = _by_trajectory([record.inputs.gap for record in records])
    limit = torch.tensor([schedule.max_gap for schedule in schedules])
    eligible = cached & (gap <= limit[:, None, None])
    reasons = _by_trajectory([record.decision.reason for record in records])
    propensity = torch.stack(
        [schedule.propensity(live) for schedule, live in zip(schedules, eligible, strict=True)]
    )
    columns = torch.stack([record.inputs.columns(FEATURES).cpu() for record in records])
    features = columns.permute(2, 0, 1, 3).flatten(0, 2).numpy()
    site_names = np.array(SITES)[records[0].inputs.site.cpu().numpy()]
    labels = np.array([reason.label for reason in DecisionReason])[reasons.flatten().numpy()]
    shown = np.array(ACTIONS)[_by_trajectory([one.inputs.order for one in records]).flatten()]
    draws = torch.stack([schedule.draw_id for schedule in schedules])
    errors = _by_trajectory([record.local_rel_error for record in records])
    frame = {
        "trajectory_id": np.repeat(ids, shape[1] * shape[2]),
        "step": _along([record.inputs.step.index for record in records], shape, axis=1),
        "timestep": _along([record.inputs.step.timestep for record in records], shape, axis=1),
        "layer": _along(records[0].inputs.layer.cpu().numpy(), shape, axis=2),
        "site": _along(site_names, shape, axis=2),
        "branch_mode": plan.branch_mode,
        **{name: features[:, index] for index, name in enumerate(FEATURES)},
        "eligible": eligible.flatten().numpy(),
        "reason": labels,
        "propensity": propensity.flatten().numpy(),
        "draw_id": draws.flatten().numpy(),
        "action": np.where(labels == DecisionReason.REUSE.label, shown, "compute"),
        "local_rel_error": errors.flatten().numpy(),
    }
    return frame


def _by_trajectory(per_step: list[Tensor]) -> Tensor:
    return torch.stack([value.cpu() for value in per_step]).permute(2, 0, 1)


def _along(values: Any, shape: tuple[int, int, int], *, axis: int) -> np.ndarray:
    values = np.asarray(values)
    lone = [1, 1, 1]
    lone[axis] = len(values)
    return np.broadcast_to(values.reshape(lone), shape).reshape(-1)
