"""How many units a driver hands out a second, and what each costs it, by how many are in flight.

    python -m benchmarks.distributed.dispatch_rate

Units sleep, in a few processes with many slots each, so that a laptop stands for a large cluster:
what is measured is the driver's own work and Ray's. No GPU and no storage take part.
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
"""Of a unit. Those of a collection take a minute or two."""
WAVES = 12
"""Units of a slot."""


class Sleeper:
    """Does nothing for a second, and gives back as much as a unit's receipt holds."""

    async def do(self, unit: int) -> dict[str, Any]:
        await asyncio.sleep(SLEEP_S)
        return {"unit_id": f"{unit:016x}", "files": {"gates": {"sha256": "0" * 64}}}


class Slots(ActorPool):
    """A fleet whose workers share processes."""

    def _create_actor(self) -> Any:
        processes = -(-self.num_workers // SLOTS_OF_A_PROCESS)
        if len(self._actors) < processes:
            remote = self._remote.options(max_concurrency=SLOTS_OF_A_PROCESS)
            self._actors.append(remote.remote())
        self._made += 1
        return self._actors[self._made % len(self._actors)]

    def _kill(self, actor: Any) -> None:
        """Its process has other slots."""


def measure(slots: int) -> dict[str, float]:
    """One run."""
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
    parser = argparse.ArgumentParser(description="Time a driver by slots; ends with JSON.")
    parser.add_argument("--slots", type=int, nargs="+", default=list(SLOTS))
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
