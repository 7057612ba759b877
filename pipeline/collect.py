"""Collection: sample under randomised reuse in exposure mode, and log what each gate saw and did.

:class:`Collector` is a plain class and runs without Ray; :func:`collect` drives a fleet of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from dqar.controller import DQARController
from dqar.gates import AllOf, Cached, Scripted, Staleness
from dqar.integration import DQARDiTWrapper, DQARSampler, SamplerConfig
from dqar.records import GateRecord
from pipeline.commit import claim_folder, committed_receipts, write_manifest
from pipeline.compaction import COMPACT_MB, settle
from pipeline.dataset import commit_unit
from pipeline.designs import Exploration, explore, parse_designs
from pipeline.door import checked
from pipeline.fleet import Fleet, FleetConfig
from pipeline.lease import held
from pipeline.models import find_model, load_model, pick_device, refuse_too_many_steps
from pipeline.noise import draw_noise
from pipeline.parts import parts_of
from pipeline.plan import CollectPlan, Unit
from pipeline.progress import Progress
from pipeline.quality import measure_deltas
from pipeline.rows import Columns, gate_columns, trajectory_columns
from pipeline.storage import Root, Storage, open_storage
from pipeline.tracking import Run, Tracker, read_lineage, write_lineage


class Collector:
    """Loads a model once, then collects and commits units."""

    def __init__(self, plan: CollectPlan, root: Root) -> None:
        self.plan = plan
        self.root = open_storage(root)
        self.device = pick_device()
        card = find_model(plan.model)
        self.model = load_model(card, sampler=plan.sampler, dtype=plan.dtype, device=self.device)
        self.wrapper = DQARDiTWrapper(self.model.transformer, plan.dqar_config())
        config = SamplerConfig(num_inference_steps=plan.steps, guidance_scale=plan.guidance_scale)
        self.sampler = DQARSampler(self.wrapper, self.model.scheduler, config)

    def do(self, unit: Unit) -> dict[str, Any]:
        """Collect one unit, commit it, return its receipt."""
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
        twins = self._run(noise, labels, DQARController(plan.dqar_config(enabled=False)))
        scripts = [self._script(index) for index in trajectories]
        orders = [plan.forecast_order(index) for index in trajectories]
        records: list[GateRecord] = []
        wants_reuse = torch.stack([script.wants_reuse for script in scripts], dim=-1)
        max_gap = torch.tensor([script.max_gap for script in scripts], device=self.device)
        controller = DQARController(
            plan.dqar_config(),
            gate=AllOf(Cached(), Staleness(max_gap), Scripted(wants_reuse.to(self.device))),
            exposure=True,
            sink=records.append,
            forecast_order=torch.tensor(orders),
        )
        latents = self._run(noise[of_noise], labels[of_noise], controller)
        deltas = measure_deltas(self.model, latents, twins[of_noise.to(twins.device)])
        ids = [plan.trajectory_id(index) for index in trajectories]
        rows = trajectory_columns(
            plan, self.device, ids, noise_ids, labels[of_noise], scripts, orders, deltas
        )
        return rows, gate_columns(plan, ids, scripts, records)

    def _draw(self, noise_ids: list[int]) -> tuple[Tensor, Tensor]:
        card = self.model.card
        return draw_noise("collect", self.plan.seed, noise_ids, card.latent_shape, card.num_classes)

    def _script(self, trajectory: int) -> Exploration:
        plan = self.plan
        num_gates = len(plan.sites) * self.model.card.num_layers
        return explore(plan.designs, plan.seed, trajectory, plan.steps, num_gates)

    def _run(self, noise: Tensor, labels: Tensor, controller: DQARController) -> Tensor:
        return self.sampler.sample(
            len(noise),
            labels.to(self.device),
            latents=noise.to(self.device, self.model.transformer.dtype),
            controller=controller,
        )


def collect(
    plan: CollectPlan,
    root: Root,
    fleet_config: FleetConfig,
    on_receipt: Callable[[dict[str, Any]], None] = lambda receipt: None,
    refuse_fenced: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Collect what is missing of a plan, then publish the manifest, which is returned.

    Running it again resumes: units with a receipt and whole shards are not collected again.
    ``refuse_fenced`` raises before anything is published where another driver has taken over.
    """
    receipts = committed_receipts(root, plan)
    missing = [unit for unit in plan.units() if unit.unit_id not in receipts]
    progress = Progress("collect", plan.num_trajectories, "trajectories")
    progress.start_at(plan.num_trajectories - sum(map(len, missing)))
    if progress.done:
        print(f"collect: {progress.done} trajectories were committed before", flush=True)
    if missing:
        fleet = Fleet(Collector, {"plan": plan, "root": open_storage(root)}, fleet_config)
        for unit, receipt in fleet.work(missing):
            receipts[unit.unit_id] = receipt
            on_receipt(receipt)
            progress.advance(len(unit))
    card = find_model(plan.model)
    facts = {"num_layers": card.num_layers, "site_flops": card.site_flops}
    refuse_fenced()
    return write_manifest(root, plan, receipts, facts)


def plan_for(
    model: str, *, guidance_scale: float | None, designs: str, **fields: Any
) -> CollectPlan:
    """The plan of a command line; what was left out follows the model.

    Raises:
        Refusal: if the model cannot be found or a field is out of range.
    """
    card = find_model(model)
    refuse_too_many_steps(card, fields["steps"])
    guidance = card.guidance_scale if guidance_scale is None else guidance_scale
    return checked(
        CollectPlan,
        model=model,
        model_hash=card.model_hash,
        guidance_scale=guidance,
        designs=checked(parse_designs, text=designs),
        **fields,
    )


def collect_traces(
    plan: CollectPlan,
    out: Root,
    fleet_config: FleetConfig,
    tracker: Tracker,
    compact_mb: float = COMPACT_MB,
) -> dict[str, Any]:
    """:func:`collect` under tracking and the folder's lease, then compaction."""
    root = open_storage(out)
    claim_folder(root, plan)
    with held(root) as lease:
        parent = tracker.open_pipeline(read_lineage(root), f"pipeline {plan.plan_hash[:8]}")
        with tracker.run(f"collect {plan.model}", stage="collect", parent=parent) as run:
            run.params(asdict(plan) | {"plan_hash": plan.plan_hash, "out": str(out)})
            started = time.perf_counter()
            manifest = collect(plan, root, fleet_config, refuse_fenced=lease.refuse_fenced)
            seconds = time.perf_counter() - started
            manifest = settle(root, manifest, compact_mb, lease)
            _log(run, manifest, seconds, root)
            write_lineage(root, {"parent": parent, "collect": run.run_id})
    print(
        f"collect: {manifest['trajectories']} trajectories, {manifest['gates']} gates in {root}, "
        f"decisions {manifest['decision_digest']}",
        flush=True,
    )
    return manifest


def _log(run: Run, manifest: dict[str, Any], seconds: float, root: Storage) -> None:
    sizes = [file["bytes"] for part in parts_of(manifest) for file in part["files"].values()]
    run.metrics(
        {
            "collect/trajectories": manifest["trajectories"],
            "collect/gates": manifest["gates"],
            "collect/seconds": seconds,
            "collect/bytes": sum(sizes),
        }
    )
    run.tags({"decision_digest": manifest["decision_digest"]})
    run.dataset("traces", manifest["data_digest"], root.address, "collection")
