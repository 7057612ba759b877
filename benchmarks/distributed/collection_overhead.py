"""Throughput of collection beside plain sampling of the same model, and bytes of its rows.

    python -m benchmarks.distributed.collection_overhead

A unit is one batch of reference samples and one of trajectories; three trajectories share a
reference sample. A collection that decided, measured and logged at no cost would make as many
samples a second as the stock sampler, counting reference samples and trajectories. Counting
trajectories alone, it would make three quarters as many, the upper bound of any such collection.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.timing.support.allocator import keep_memory
from benchmarks.timing.support.device_clock import device_name
from benchmarks.timing.support.flags import count, hand_over, machine_facts
from benchmarks.timing.support.interleaved_rounds import Ran, Rounds, Variant, time_rounds
from benchmarks.timing.support.median_interval import figures_of, to_digits
from dqar.integration import DQARSampler, SamplerConfig
from pipeline.collect.driver import plan_for
from pipeline.collect.worker import Collector
from pipeline.exploration.collect_plan import CollectPlan, Unit
from pipeline.models.noise import draw_noise
from pipeline.statistics import ratio_of
from pipeline.traces.commit import claim_output


@dataclass(slots=True)
class TimedCollection:
    """A collector, the first unit of its plan, and the receipts of each run of that unit."""

    collector: Collector
    folder: Path
    receipts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def plan(self) -> CollectPlan:
        """The plan of the collection."""
        return self.collector.plan

    @property
    def unit(self) -> Unit:
        """The first unit of the plan."""
        return next(self.plan.units())

    def variants(self) -> Iterator[Variant]:
        """Yield what a round times: plain sampling and collection."""
        yield Variant(name="sampling", run=self.sample)
        yield Variant(name="collecting", run=self.collect)

    def sample(self) -> Ran:
        """Time the stock model in the sampler, on the noise of the unit's trajectories."""
        plan, model = self.plan, self.collector.model
        noise_ids = [plan.noise_id(index) for index in range(self.unit.start, self.unit.stop)]
        shape, classes = model.info.latent_shape, model.info.num_classes
        noise, labels = draw_noise("collect", plan.noise_seed, noise_ids, shape, classes)
        noise = noise.to(self.collector.device, model.transformer.dtype)
        config = SamplerConfig(num_inference_steps=plan.steps, guidance_scale=plan.guidance_scale)
        sampler = DQARSampler(model.transformer, model.scheduler, config)
        started = time.perf_counter()
        # The copy to the host waits for the device.
        sampler.sample(len(noise), labels.to(noise.device), latents=noise).cpu()
        return Ran(seconds=time.perf_counter() - started)

    def collect(self) -> Ran:
        """Time the unit as a worker collects it, from noise to receipt, in a new folder."""
        root = Path(tempfile.mkdtemp(dir=self.folder)) / "traces"
        claim_output(root, self.plan)
        self.collector.root = root
        started = time.perf_counter()
        self.receipts.append(self.collector.do(self.unit))
        return Ran(seconds=time.perf_counter() - started)


def report(collection: TimedCollection, rounds: Rounds) -> dict[str, Any]:
    """Throughput of collection over that of plain sampling, and bytes of a gate row."""
    trajectories = len(collection.unit)
    references = -(-trajectories // collection.plan.masks_per_noise)
    ratio = ratio_of(rounds.seconds["sampling"], rounds.seconds["collecting"])
    both = {
        name: value * (trajectories + references) / trajectories for name, value in ratio.items()
    }
    receipt = collection.receipts[-1]
    written = sum(file["bytes"] for file in receipt["files"].values())
    return {
        "trajectories": trajectories,
        "twins": references,
        **figures_of("samples_ratio", both),
        **figures_of("trajectories_ratio", ratio),
        "trajectories_ratio_at_most": to_digits(trajectories / (trajectories + references)),
        "gate_rows": receipt["gates"],
        "bytes_per_gate_row": to_digits(written / receipt["gates"]),
        "rounds": rounds.count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time collection; the last line is JSON.")
    parser.add_argument("--model", default="digits", help="model, as for jobs/collect.py")
    parser.add_argument("--sites", default="attn,ff", help="modules whose output may be reused")
    parser.add_argument("--batch-size", type=count, default=48, help="trajectories of the unit")
    parser.add_argument("--steps", type=count, default=50, help="sampling steps")
    parser.add_argument("--rounds", type=count, default=12, help="rounds of both variants")
    parser.add_argument("--out", type=Path, help="also write the JSON line to this file")
    arguments = parser.parse_args()
    plan = plan_for(
        arguments.model,
        guidance_scale=None,
        designs="paced",
        steps=arguments.steps,
        sites=tuple(arguments.sites.split(",")),
        forecast_orders=(0, 1, 2),
        batch_size=arguments.batch_size,
        num_trajectories=arguments.batch_size,
    )
    kept = {"keeps_memory": keep_memory()}
    with tempfile.TemporaryDirectory() as folder:
        collection = TimedCollection(collector=Collector(plan, folder), folder=Path(folder))
        device = collection.collector.device
        rounds = time_rounds(list(collection.variants()), arguments.rounds, device)
    facts = {
        "model": plan.model,
        "width": collection.collector.model.info.width,
        "tokens": collection.collector.model.info.num_tokens,
        "sites": arguments.sites,
        "steps": plan.steps,
        "device": device_name(device),
    }
    hand_over(facts | machine_facts() | kept | report(collection, rounds), arguments.out)


if __name__ == "__main__":
    main()
