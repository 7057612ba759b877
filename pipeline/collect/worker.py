"""A collector samples under randomised reuse in exposure mode and logs what each gate saw and did.

A plain class, which runs without Ray.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from dqar.control.controller import DQARController
from dqar.gates.base import AllOf
from dqar.gates.rules import MaskGate, RequireCached, Staleness
from dqar.integration import DQARDiTWrapper, DQARSampler, SamplerConfig
from dqar.records import GateRecord
from pipeline.collect.columns import Columns, gate_columns, trajectory_columns
from pipeline.collect.quarantine import Diverged
from pipeline.errors import InputError
from pipeline.exploration.collect_plan import CollectPlan, Unit
from pipeline.exploration.designs import RandomSchedule, explore
from pipeline.models.image_metrics import Deltas, measure_deltas
from pipeline.models.loading import load_model, pick_device
from pipeline.models.model_info import find_model
from pipeline.models.noise import draw_noise
from pipeline.storage.object_store import Root
from pipeline.traces.tables import commit_unit


class Collector:
    """Loads a model once, then collects and commits units."""

    def __init__(self, plan: CollectPlan, root: Root) -> None:
        self.plan = plan
        self.root = root
        torch.set_num_threads(plan.threads)
        self.device = pick_device()
        info = find_model(plan.model)
        if info.model_hash != plan.model_hash:
            raise InputError(
                f"--model {plan.model} must be the one that was planned, {plan.model_hash}, on "
                f"every node. Got {info.model_hash} here. Copy the same files everywhere."
            )
        self.model = load_model(info, sampler=plan.sampler, dtype=plan.dtype, device=self.device)
        self.wrapper = DQARDiTWrapper(self.model.transformer, plan.dqar_config())
        config = SamplerConfig(num_inference_steps=plan.steps, guidance_scale=plan.guidance_scale)
        self.sampler = DQARSampler(self.wrapper, self.model.scheduler, config)

    def do(self, unit: Unit) -> dict[str, Any]:
        """Collect one unit, commit it, return its receipt.

        Raises:
            Diverged: if a trajectory or its twin did; nothing of the unit is written.
        """
        started = time.perf_counter()
        trajectories, gates = self.sample(unit)
        notes = {"device": self.device, "seconds": round(time.perf_counter() - started, 3)}
        return commit_unit(self.root, unit, trajectories, gates, notes)

    def sample(self, unit: Unit) -> tuple[Columns, Columns]:
        """One batch of twins, one batch of trajectories: the columns of both tables."""
        plan = self.plan
        trajectories = range(unit.start, unit.stop)
        noise_ids = [plan.noise_id(index) for index in trajectories]
        unique = sorted(set(noise_ids))
        noise, labels = self._draw(unique)
        of_noise = torch.tensor([unique.index(noise_id) for noise_id in noise_ids])
        references = self._run(noise, labels, DQARController(plan.dqar_config(enabled=False)))
        scripts = [self._script(index) for index in trajectories]
        orders = [plan.forecast_order(index) for index in trajectories]
        feedback = torch.tensor([plan.feedback(index) for index in trajectories])
        records: list[GateRecord] = []
        wants_reuse = torch.stack([script.wants_reuse for script in scripts], dim=-1)
        max_gap = torch.tensor([script.max_gap for script in scripts], device=self.device)
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
            plan, self.device, ids, noise_ids, labels[of_noise], scripts, orders, feedback, deltas
        )
        return rows, gate_columns(plan, ids, scripts, records)

    def _draw(self, noise_ids: list[int]) -> tuple[Tensor, Tensor]:
        info = self.model.info
        seed = self.plan.noise_seed
        return draw_noise("collect", seed, noise_ids, info.latent_shape, info.num_classes)

    def _script(self, trajectory: int) -> RandomSchedule:
        plan = self.plan
        num_gates = len(plan.sites) * self.model.info.num_layers
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
    """What is not finite must not be averaged in, and a unit is committed whole.

    Raises:
        Diverged: naming the trajectories that are not finite.
    """
    if not bool(are_finite.all()):
        lost = [name for name, is_finite in zip(ids, are_finite, strict=True) if not is_finite]
        named = ", ".join(lost[:8]) + (" and more" if len(lost) > 8 else "")
        raise Diverged(
            f"Trajectories must end in finite numbers. Got {len(lost)} of {len(ids)} that do not: "
            f"{named}. Pass another --dtype, lower --forecast-orders or --error-feedback, or "
            "another --exploration."
        )


def _are_finite(latents: Tensor, references: Tensor, deltas: Deltas) -> Bool[Tensor, " b"]:
    measured = [deltas.latent_rel_l2, deltas.psnr, deltas.ssim, deltas.feature_distance]
    rows = [latents.flatten(1), references.flatten(1)]
    rows += [delta[:, None] for delta in measured if delta is not None]
    return torch.stack([row.isfinite().all(dim=1).cpu() for row in rows]).all(dim=0)
