"""Ray cluster that a stage runs on: joining or starting it, its nodes, its exported metrics."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge

from pipeline.cluster.capacity import Cluster, Node, Scaling, read_scaling
from pipeline.storage.output_checks import inside_ray_job


def join_ray() -> None:
    """Join the cluster of a submitted job or of ``RAY_ADDRESS``; else start one in-process."""
    if ray.is_initialized():
        return
    if is_on_a_cluster():
        ray.init(log_to_driver=True)
        return
    if address := os.environ.get("RAY_ADDRESS"):
        # An http address is a job server.
        print(
            f"RAY_ADDRESS={address} is for ray job submit only: a driver outside the cluster "
            "cannot join it. Running on a local Ray instead",
            flush=True,
        )
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR)


def is_on_a_cluster() -> bool:
    """Return True if :func:`join_ray` joins a cluster; else it starts a local Ray."""
    address = os.environ.get("RAY_ADDRESS", "")
    return inside_ray_job() or bool(address and not address.startswith("http"))


def leave_ray() -> None:
    """Disconnect from Ray, and stop a local Ray that :func:`join_ray` started."""
    ray.shutdown()


def living_nodes() -> list[dict[str, Any]]:
    """Return the living nodes of the joined cluster, each with ``Resources`` and ``Labels``."""
    return [node for node in ray.nodes() if node["Alive"]]


def cluster_around() -> Cluster:
    """Describe the joined cluster: its nodes, and the nodes that its autoscaler may add."""
    nodes = tuple(
        Node(resources=node["Resources"], labels=node.get("Labels", {})) for node in living_nodes()
    )
    return Cluster(nodes=nodes, scaling=read_scaling() if is_on_a_cluster() else Scaling())


def ask_worker(
    question: Callable[..., Any], *arguments: Any, options: dict[str, Any], timeout_s: float
) -> Any:
    """Call a function on a node with the resources in Ray's ``options``, and return its result.

    An error that the function raises there is raised here.

    Raises:
        TimeoutError: if the call has not finished within ``timeout_s`` seconds.
    """
    answer = ray.remote(**options, max_retries=0)(question).remote(*arguments)
    if not ray.wait([answer], timeout=timeout_s)[0]:
        ray.cancel(answer, force=True)
        raise TimeoutError(
            f"no node with {options} answered within {timeout_s:g} s; the cluster's resources "
            f"are {ray.cluster_resources()}"
        )
    return ray.get(answer)


class Meters:
    """Metrics of an actor pool that Ray exports as ``ray_dqar_...``, tagged with the class of the
    workers."""

    def __init__(self, worker: str) -> None:
        self._tags = {"worker": worker}
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}

    def count(self, what: str, amount: int | float) -> None:
        """Add an amount to a counter."""
        if what not in self._counters:
            self._counters[what] = Counter(f"dqar_{what}", tag_keys=("worker",))
        if amount:
            self._counters[what].inc(amount, self._tags)

    def show(self, **values: int | float) -> None:
        """Set gauges to values."""
        for what, value in values.items():
            if what not in self._gauges:
                self._gauges[what] = Gauge(f"dqar_{what}", tag_keys=("worker",))
            self._gauges[what].set(value, self._tags)
