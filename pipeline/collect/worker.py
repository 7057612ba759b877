"""Worker of a collection: samples under randomised reuse and logs every reuse decision.

Sampling runs in exposure mode: every site computes, so that the local error of a reuse is known,
and the decision selects only which output the sampler sees. :class:`Collector` runs without Ray.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from dqar.control.controller import DQARController
from dqar.gate_table import GateTable
from dqar.gates.base import AllOf
from dqar.gates.rules import MaskGate, RequireCached, Staleness
from dqar.integration import DQARDiTWrapper, DQARSampler, SamplerConfig
from dqar.records import GateRecord
from pipeline.collect.columns import Columns, gate_columns, trajectory_columns
from pipeline.collect.quarantine import Diverged
from pipeline.errors import InputError
from pipeline.exploration.collect_plan import CollectPlan, Unit
from pipeline.exploration.designs import RandomSchedule, explore
from pipeline.models.identity import describe_difference
from pipeline.models.image_metrics import Deltas, measure_deltas
from pipeline.models.loading import load_model, pick_device
from pipeline.models.model_info import find_model
from pipeline.models.noise import draw_noise
from pipeline.storage.object_store import Root
from pipeline.traces.tables import commit_unit


class Collector:
    """Worker that loads a model once, then collects and commits units."""

    def __init__(self, plan: CollectPlan, root: Root) -> None:
        self.plan = plan
        self.root = root
        torch.set_num_threads(plan.threads)
        self.device = pick_device()
        info = find_model(plan.model)
        if info.model_hash != plan.model_hash:
            raise InputError(
                f"--model {plan.model} must have the same files on every node. Got "
                f"{describe_difference(info.model_hash, plan.model_hash)} on this node than the "
                "driver found. Copy the same model files to every node."
            )
        self.model = load_model(info, sampler=plan.sampler, dtype=plan.dtype, device=self.device)
        self.wrapper = DQARDiTWrapper(self.model.transformer, plan.dqar_config())
        config = SamplerConfig(num_inference_steps=plan.steps, guidance_scale=plan.guidance_scale)
        self.sampler = DQARSampler(self.wrapper, self.model.scheduler, config)

    def do(self, unit: Unit) -> dict[str, Any]:
        """Collect one unit, commit it and return its receipt.

        Raises:
            Diverged: if a trajectory or its reference sample diverged; nothing of the unit is
                written.
        """
        started = time.perf_counter()
        trajectories, gates = self.sample(unit)
        notes = {"device": self.device, "seconds": round(time.perf_counter() - started, 3)}
        return commit_unit(self.root, unit, trajectories, gates, notes)

    def sample(self, unit: Unit) -> tuple[Columns, Columns]:
        """Sample a unit's reference samples, then its trajectories; return the columns of both
        tables.

        Raises:
            Diverged: if a trajectory or its reference sample diverged.
        """
        plan = self.plan
        trajectories = range(unit.start, unit.stop)
        noise_ids = [plan.noise_id(index) for index in trajectories]
        unique = sorted(set(noise_ids))
        noise, labels = self._draw(unique)
        of_noise = torch.tensor([unique.index(noise_id) for noise_id in noise_ids])
        references = self._run(noise, labels, DQARController(plan.dqar_config(enabled=False)))
        schedules = [self._draw_schedule(index) for index in trajectories]
        orders = [plan.forecast_order(index) for index in trajectories]
        feedback = torch.tensor([plan.feedback(index) for index in trajectories])
        records: list[GateRecord] = []
        wants_reuse = torch.stack([one.wants_reuse for one in schedules], dim=-1)
        max_gap = torch.tensor([one.max_gap for one in schedules], device=self.device)
        controller = DQARController(
            plan.dqar_config(),
            gate=AllOf(RequireCached(), Staleness(max_gap), MaskGate(wants_reuse.to(self.device))),
            exposure=True,
            sink=records.append,
            forecast_order=torch.tensor(orders),
            feedback=feedback,
        )
        latents = self._run(noise[of_noise], labels[of_noise], controller)
        deltas = measure_deltas(self.model, latents, references[of_noise.to(references.device)])
        ids = [plan.trajectory_id(index) for index in trajectories]
        refuse_diverged(
            ids, _are_finite(latents, references[of_noise.to(references.device)], deltas)
        )
        rows = trajectory_columns(
            plan, self.device, ids, noise_ids, labels[of_noise], schedules, orders, feedback, deltas
        )
        return rows, gate_columns(plan, ids, schedules, records)

    def _draw(self, noise_ids: list[int]) -> tuple[Tensor, Tensor]:
        info = self.model.info
        seed = self.plan.noise_seed
        return draw_noise("collect", seed, noise_ids, info.latent_shape, info.num_classes)

    def _draw_schedule(self, trajectory: int) -> RandomSchedule:
        plan = self.plan
        num_gates = GateTable.regular(plan.sites, self.model.info.num_layers).num_gates
        seed, schedules = plan.noise_seed, plan.schedules
        return explore(plan.designs, seed, trajectory, plan.steps, num_gates, schedules)

    def _run(self, noise: Tensor, labels: Tensor, controller: DQARController) -> Tensor:
        return self.sampler.sample(
            len(noise),
            labels.to(self.device),
            latents=noise.to(self.device, self.model.transformer.dtype),
            controller=controller,
        )


def refuse_diverged(ids: list[str], are_finite: Bool[Tensor, " b"]) -> None:
    """Refuse a unit with diverged trajectories: a unit is committed whole, and NaN or infinity
    would spoil every average over the dataset.

    Raises:
        Diverged: naming the trajectories that are not finite.
    """
    if not bool(are_finite.all()):
        lost = [name for name, is_finite in zip(ids, are_finite, strict=True) if not is_finite]
        named = ", ".join(lost[:8]) + (" and more" if len(lost) > 8 else "")
        raise Diverged(
            f"Trajectories must end in finite numbers. Got {len(lost)} of {len(ids)} trajectories "
            f"with NaN or infinity: {named}. Pass another --dtype, lower --forecast-orders or "
            "--error-feedback, or another --exploration."
        )


def _are_finite(latents: Tensor, references: Tensor, deltas: Deltas) -> Bool[Tensor, " b"]:
    measured = [deltas.latent_rel_l2, deltas.psnr, deltas.ssim, deltas.feature_distance]
    rows = [latents.flatten(1), references.flatten(1)]
    rows += [delta[:, None] for delta in measured if delta is not None]
    return torch.stack([row.isfinite().all(dim=1).cpu() for row in rows]).all(dim=0)
