"""Whether a cluster can give the workers that are asked for: facts in, verdict out. No Ray.

Ray itself never says so: an actor that no node can hold stays pending for ever.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

ACCELERATOR_LABEL = "ray.io/accelerator-type"
ACCELERATOR_RESOURCE = "accelerator_type:"
BOOTSTRAP = "ray_bootstrap_config.yaml"
"""What ``ray up`` leaves in the home folder of its head, where drivers of jobs run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """All that a node has, whoever uses it now."""

    resources: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeType:
    """Nodes that an autoscaler may start."""

    node: Node
    max_nodes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """What an autoscaler may add to a cluster."""

    types: tuple[NodeType, ...] = ()
    max_nodes: int = 0
    """Of all types together."""
    is_unseen: bool = False
    """Whether there is an autoscaler whose node types cannot be read from here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """The nodes that live, and those that may come."""

    nodes: tuple[Node, ...]
    scaling: Scaling = Scaling()

    @property
    def all_kinds(self) -> tuple[Node, ...]:
        """Every node that lives, and one of each type that may come."""
        return (*self.nodes, *(kind.node for kind in self.scaling.types if kind.max_nodes))


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceRequest:
    """What one worker takes of a node."""

    gpus: float
    """GPUs, or a share of one."""
    accelerator_type: str | None = None
    is_by_label: bool = False
    """Whether the accelerator type is asked for by the node's label, else by its resource."""

    def slots(self, node: Node) -> int:
        """Workers that fit on an empty node."""
        if not self._is_right_type(node):
            return 0
        cpus = int(node.resources.get("CPU", 0.0))
        return min(cpus, self._shares(node.resources.get("GPU", 0.0))) if self.gpus else cpus

    def _shares(self, gpus: float) -> int:
        # Ray never gives a worker parts of two GPUs: of 0.3 there are three to a GPU.
        if self.gpus < 1:
            return int(gpus) * int(1 / self.gpus + 1e-9)
        return int(gpus / self.gpus)

    def _is_right_type(self, node: Node) -> bool:
        wanted = self.accelerator_type
        return wanted is None or wanted in accelerators(node, by_label=self.is_by_label)

    def options(self) -> dict[str, Any]:
        """Options of a Ray actor."""
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": self.gpus}
        if self.accelerator_type is None:
            return options
        if self.is_by_label:
            return options | {"label_selector": {ACCELERATOR_LABEL: self.accelerator_type}}
        return options | {"accelerator_type": self.accelerator_type}

    def __str__(self) -> str:
        kind = f" of type {self.accelerator_type}" if self.accelerator_type else ""
        return f"1 CPU and {self.gpus:g} GPU{kind}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Feasibility:
    """When a first worker can start, and what to tell of it."""

    when: Literal["now", "later", "never"]
    line: str = ""


def resource_request(
    gpus_per_worker: float, accelerator_type: str | None, cluster: Cluster
) -> ResourceRequest:
    """What a worker asks for: a whole GPU where the cluster has or may get any."""
    has_gpus = any(node.resources.get("GPU", 0.0) for node in cluster.all_kinds)
    if accelerator_type is None:
        return ResourceRequest(gpus=gpus_per_worker or float(has_gpus))
    by_label = any(
        accelerator_type in accelerators(one, by_label=True) for one in cluster.all_kinds
    )
    return ResourceRequest(
        gpus=gpus_per_worker or 1.0, accelerator_type=accelerator_type, is_by_label=by_label
    )


def accelerators(node: Node, *, by_label: bool) -> set[str]:
    """Accelerator types that a node says it has, by its label or by its resources."""
    if by_label:
        return {node.labels[ACCELERATOR_LABEL]} if ACCELERATOR_LABEL in node.labels else set()
    named = [name for name, amount in node.resources.items() if amount]
    return {
        name.removeprefix(ACCELERATOR_RESOURCE)
        for name in named
        if name.startswith(ACCELERATOR_RESOURCE)
    }


def check_feasible(ask: ResourceRequest, cluster: Cluster) -> Feasibility:
    """Whether a worker can start now, later when nodes come, or never."""
    if any(ask.slots(node) for node in cluster.nodes):
        return Feasibility(when="now")
    lacking = f"No node of the cluster can hold a worker, which needs {ask}. {_told(cluster)}"
    if any(ask.slots(kind.node) and kind.max_nodes for kind in cluster.scaling.types):
        return Feasibility(when="later", line=f"{lacking} The autoscaler can add one; waiting.")
    if cluster.scaling.is_unseen:
        return Feasibility(when="later", line=f"{lacking} Waiting for the autoscaler to add one.")
    return Feasibility(when="never", line=f"{lacking} Nothing will add one. {_mend(ask, cluster)}")


def _told(cluster: Cluster) -> str:
    most = {
        name: max((node.resources.get(name, 0.0) for node in cluster.nodes), default=0.0)
        for name in ("CPU", "GPU")
    }
    types = sorted(_all_accelerators(cluster)) or ["none"]
    return (
        f"Its {len(cluster.nodes)} nodes have at most {most['CPU']:g} CPU and {most['GPU']:g} GPU "
        f"each, accelerator types: {', '.join(types)}."
    )


def _all_accelerators(cluster: Cluster) -> set[str]:
    return {
        name
        for node in cluster.all_kinds
        for by_label in (True, False)
        for name in accelerators(node, by_label=by_label)
    }


def _mend(ask: ResourceRequest, cluster: Cluster) -> str:
    wanted = ask.accelerator_type
    family = (wanted or "").partition("-")[0]
    if wanted is not None and wanted not in _all_accelerators(cluster):
        if wanted != family and family in _all_accelerators(cluster):
            return (
                f"Ray finds {family} by itself but never {wanted}: pass {family}, or start those "
                f"nodes with --labels {ACCELERATOR_LABEL}={wanted}."
            )
        return (
            "Pass a type that it has, add such nodes, or wait for them with "
            "--worker-timeout-minutes."
        )
    return (
        "Ask for less with --gpus-per-worker, add nodes, or wait for them with "
        "--worker-timeout-minutes."
    )


def capacity(ask: ResourceRequest, cluster: Cluster) -> int:
    """Workers that the cluster can hold, those on nodes that may come included; at least 1.

    An autoscaler adds a node for a worker that waits for one: so many must be asked for.
    """
    living = sum(ask.slots(node) for node in cluster.nodes)
    left, to_come = cluster.scaling.max_nodes, 0
    for kind in sorted(cluster.scaling.types, key=lambda one: ask.slots(one.node), reverse=True):
        count = min(left, kind.max_nodes)
        left -= count
        to_come += count * ask.slots(kind.node)
    return max(1, living, to_come)


def read_scaling() -> Scaling:
    """What the autoscaler of the cluster around this process may add, as far as can be seen."""
    try:
        found = yaml.safe_load((Path.home() / BOOTSTRAP).read_text())
        return parse_scaling(found)
    except FileNotFoundError:
        # Under KubeRay the worker groups are known to Kubernetes alone.
        return Scaling(is_unseen="RAY_CLUSTER_NAME" in os.environ)
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        return Scaling(is_unseen=True)


def parse_scaling(config: dict[str, Any]) -> Scaling:
    """The node types of a cluster launcher's configuration."""
    head, most = config.get("head_node_type"), int(config.get("max_workers", 0))
    types = [
        NodeType(
            node=Node(
                resources={name: float(one) for name, one in kind.get("resources", {}).items()},
                labels=dict(kind.get("labels", {})),
            ),
            max_nodes=int(kind.get("max_workers", 0 if name == head else most)),
        )
        for name, kind in config.get("available_node_types", {}).items()
    ]
    return Scaling(types=tuple(types), max_nodes=most)
