"""Dispatch rate of a driver and its CPU time for a unit, by the number of units in flight.

    python -m benchmarks.distributed.dispatch_rate

Units sleep for a second in a few processes with many slots each, so that a laptop can simulate a
large cluster: the figures show the work of the driver and of Ray. No GPU and no storage take part.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.timing.support.flags import hand_over, machine_facts
from pipeline.cluster.actor_pool import ActorPool
from pipeline.cluster.config import ClusterConfig

SLOTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SLOTS_OF_A_PROCESS = 64
SLEEP_S = 1.0
"""Seconds that a unit sleeps; a unit of a collection takes a minute or two."""
WAVES = 12
"""Units that each slot runs, one after the other."""


class Sleeper:
    """Worker that sleeps for :data:`SLEEP_S` and returns a dictionary like a unit's receipt."""

    async def do(self, unit: int) -> dict[str, Any]:
        await asyncio.sleep(SLEEP_S)
        return {"unit_id": f"{unit:016x}", "files": {"gates": {"sha256": "0" * 64}}}


class Slots(ActorPool):
    """Actor pool whose workers share processes."""

    def _create_actor(self) -> Any:
        processes = -(-self.num_workers // SLOTS_OF_A_PROCESS)
        if len(self._actors) < processes:
            remote = self._remote.options(max_concurrency=SLOTS_OF_A_PROCESS)
            self._actors.append(remote.remote())
        self._made += 1
        return self._actors[self._made % len(self._actors)]

    def _kill(self, actor: Any) -> None:
        """Do nothing: other slots share the process of the actor."""


def measure(slots: int) -> dict[str, float]:
    """Run :data:`WAVES` units in each slot; return one row of the result."""
    pool, num_units = Slots(Sleeper, {}, ClusterConfig(workers=slots)), slots * WAVES
    arrivals, spent = [], time.process_time()
    for _ in pool.map_unordered(range(num_units)):
        arrivals.append(time.monotonic())
    spent = time.process_time() - spent
    seconds = arrivals[-1] - arrivals[0] + SLEEP_S
    return {
        "slots": slots,
        "units": num_units,
        "units_per_s": round(num_units / seconds, 2),
        "share_of_ideal": round(num_units * SLEEP_S / slots / seconds, 4),
        "driver_cpu_ms": round(1000 * spent / num_units, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a driver; the last line is JSON.")
    parser.add_argument("--slots", type=int, nargs="+", default=list(SLOTS), help="units in flight")
    parser.add_argument("--out", type=Path, help="also write the JSON line to this file")
    arguments = parser.parse_args()
    processes = -(-max(arguments.slots) // SLOTS_OF_A_PROCESS)
    ray.init(address="local", num_cpus=processes, include_dashboard=False, log_to_driver=False)
    rows = []
    for slots in arguments.slots:
        rows.append(measure(slots))
        print(rows[-1], flush=True)
    facts = {"unit_s": SLEEP_S, "slots_of_a_process": SLOTS_OF_A_PROCESS, "ray": ray.__version__}
    ray.shutdown()
    hand_over(facts | machine_facts() | {"rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
