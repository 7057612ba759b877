"""Check that a cluster can hold the workers that are asked for, from a description of its nodes.

Ray reports no error for an actor that no node can hold: such an actor stays pending for ever. This
module does not import ray.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from dqar.validation import validate

ACCELERATOR_LABEL = "ray.io/accelerator-type"
ACCELERATOR_RESOURCE = "accelerator_type:"
BOOTSTRAP = "ray_bootstrap_config.yaml"
"""File with the cluster's configuration that ``ray up`` writes into the home folder of the head
node, where the drivers of submitted jobs run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """Total resources and labels of a node, whether in use or not."""

    resources: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeType:
    """Type of node that an autoscaler may start, and the most nodes of that type."""

    node: Node
    max_nodes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """Nodes that an autoscaler may add to a cluster."""

    types: tuple[NodeType, ...] = ()
    max_nodes: int = 0
    """Most nodes of all types together."""
    is_unseen: bool = False
    """True if there is an autoscaler whose node types this process cannot read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Nodes of a cluster, and the nodes that an autoscaler may add."""

    nodes: tuple[Node, ...]
    scaling: Scaling = Scaling()

    @property
    def all_kinds(self) -> tuple[Node, ...]:
        """All nodes of the cluster, and one node of each type that an autoscaler may add."""
        return (*self.nodes, *(kind.node for kind in self.scaling.types if kind.max_nodes))


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceRequest:
    """Resources that one worker takes of a node, besides one CPU."""

    gpus: float
    """Number of GPUs, or a share of one GPU."""
    accelerator_type: str | None = None
    """Ray's name of the accelerator type; None for any."""
    is_by_label: bool = False
    """True if the accelerator type is matched with a node label, else with a node resource."""

    def slots(self, node: Node) -> int:
        """Return the number of workers that fit on an empty node."""
        if not self._is_right_type(node):
            return 0
        cpus = int(node.resources.get("CPU", 0.0))
        return min(cpus, self._shares(node.resources.get("GPU", 0.0))) if self.gpus else cpus

    def _shares(self, gpus: float) -> int:
        # A worker's share lies on one GPU: three workers of 0.3 GPU fit on a GPU, 0.1 stays unused.
        if self.gpus < 1:
            return int(gpus) * int(1 / self.gpus + 1e-9)
        return int(gpus / self.gpus)

    def _is_right_type(self, node: Node) -> bool:
        wanted = self.accelerator_type
        return wanted is None or wanted in accelerators(node, by_label=self.is_by_label)

    def options(self) -> dict[str, Any]:
        """Return the resources as options of a Ray actor."""
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
    """Answer to the question when a first worker can start."""

    when: Literal["now", "later", "never"]
    """``later`` if an autoscaler has to add a node first."""
    line: str = ""
    """Message for the user; empty if a worker can start now."""


def resource_request(
    gpus_per_worker: float, accelerator_type: str | None, cluster: Cluster
) -> ResourceRequest:
    """Return the resources that a worker asks for.

    Args:
        gpus_per_worker: share of a GPU; 0 for a whole GPU where the cluster has or may get any.
        accelerator_type: Ray's name of the accelerator type; None for any.
        cluster: the cluster; its nodes say whether types are given by label or by resource.
    """
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
    """Return the accelerator types that a node declares by its label or by its resources."""
    if by_label:
        return {node.labels[ACCELERATOR_LABEL]} if ACCELERATOR_LABEL in node.labels else set()
    named = [name for name, amount in node.resources.items() if amount]
    return {
        name.removeprefix(ACCELERATOR_RESOURCE)
        for name in named
        if name.startswith(ACCELERATOR_RESOURCE)
    }


def check_feasible(ask: ResourceRequest, cluster: Cluster) -> Feasibility:
    """Check if a worker can start now, later when the autoscaler adds a node, or never."""
    if any(ask.slots(node) for node in cluster.nodes):
        return Feasibility(when="now")
    lacking = (
        f"No node of the cluster can hold a worker, which needs {ask}. {_describe_nodes(cluster)}"
    )
    if any(ask.slots(kind.node) and kind.max_nodes for kind in cluster.scaling.types):
        return Feasibility(
            when="later", line=f"{lacking} The autoscaler can add such a node; waiting for it."
        )
    if cluster.scaling.is_unseen:
        return Feasibility(
            when="later", line=f"{lacking} Waiting for the autoscaler to add such a node."
        )
    return Feasibility(
        when="never", line=f"{lacking} No autoscaler will add such a node. {_fix(ask, cluster)}"
    )


def _describe_nodes(cluster: Cluster) -> str:
    most = {
        name: max((node.resources.get(name, 0.0) for node in cluster.nodes), default=0.0)
        for name in ("CPU", "GPU")
    }
    types = sorted(_all_accelerators(cluster)) or ["none"]
    return (
        f"The cluster's {len(cluster.nodes)} nodes have at most {most['CPU']:g} CPU and "
        f"{most['GPU']:g} GPU each, accelerator types: {', '.join(types)}."
    )


def _all_accelerators(cluster: Cluster) -> set[str]:
    return {
        name
        for node in cluster.all_kinds
        for by_label in (True, False)
        for name in accelerators(node, by_label=by_label)
    }


def _fix(ask: ResourceRequest, cluster: Cluster) -> str:
    wanted = ask.accelerator_type
    family = (wanted or "").partition("-")[0]
    if wanted is not None and wanted not in _all_accelerators(cluster):
        if wanted != family and family in _all_accelerators(cluster):
            return (
                f"Ray detects {family} by itself but never {wanted}: pass {family}, or start the "
                f"nodes that have {wanted} with --labels {ACCELERATOR_LABEL}={wanted}."
            )
        return (
            "Pass an --accelerator-type that the cluster has, add nodes of the wanted type, or "
            "wait for them with --worker-timeout-minutes."
        )
    return (
        "Ask for less with --gpus-per-worker, add nodes, or wait for them with "
        "--worker-timeout-minutes."
    )


def capacity(ask: ResourceRequest, cluster: Cluster) -> int:
    """Return the number of workers to ask for: the workers that fit on the present nodes or, if
    more, on all nodes that the autoscaler may have; at least 1.

    An autoscaler adds nodes only for workers that are pending, so that workers have to be
    requested before their nodes exist.
    """
    living = sum(ask.slots(node) for node in cluster.nodes)
    left, to_come = cluster.scaling.max_nodes, 0
    for kind in sorted(cluster.scaling.types, key=lambda one: ask.slots(one.node), reverse=True):
        count = min(left, kind.max_nodes)
        left -= count
        to_come += count * ask.slots(kind.node)
    return max(1, living, to_come)


def read_scaling() -> Scaling:
    """Read the nodes that the autoscaler of this process's cluster may add."""
    try:
        found = yaml.safe_load((Path.home() / BOOTSTRAP).read_text())
        return parse_scaling(found)
    except FileNotFoundError:
        # Under KubeRay only Kubernetes knows the worker groups.
        return Scaling(is_unseen="RAY_CLUSTER_NAME" in os.environ)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return Scaling(is_unseen=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class LauncherNodeType:
    """A node type in the configuration of Ray's cluster launcher."""

    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    max_workers: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LauncherConfig:
    """Fields of the configuration of Ray's cluster launcher that limit its nodes."""

    head_node_type: str | None = None
    max_workers: int = 0
    available_node_types: dict[str, LauncherNodeType] = field(default_factory=dict)

    def max_of(self, name: str) -> int:
        """Return the limit of a node type that sets none: the head's is its one node."""
        return 0 if name == self.head_node_type else self.max_workers


def parse_scaling(config: Any) -> Scaling:
    """Return the node types of a Ray cluster launcher's configuration.

    Raises:
        ValueError: naming the field that is of a wrong kind.
    """
    launcher = validate(config, LauncherConfig)
    types = [
        NodeType(
            node=Node(resources=kind.resources, labels=kind.labels),
            max_nodes=launcher.max_of(name) if kind.max_workers is None else kind.max_workers,
        )
        for name, kind in launcher.available_node_types.items()
    ]
    return Scaling(types=tuple(types), max_nodes=launcher.max_workers)
