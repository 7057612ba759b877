"""Capacity check of a cluster, computed from a description of its nodes without Ray."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.capacity import (
    ACCELERATOR_LABEL,
    BOOTSTRAP,
    Cluster,
    Node,
    NodeType,
    ResourceRequest,
    Scaling,
    capacity,
    check_feasible,
    parse_scaling,
    read_scaling,
    resource_request,
)

HEAD = Node(resources={"memory": 1e9})
CPUS = Node(resources={"CPU": 16.0})
A100 = Node(
    resources={"CPU": 96.0, "GPU": 8.0, "accelerator_type:A100": 1.0},
    labels={ACCELERATOR_LABEL: "A100"},
)
UNLABELLED = Node(resources=A100.resources)
T4 = Node(
    resources={"CPU": 4.0, "GPU": 1.0, "accelerator_type:T4": 1.0},
    labels={ACCELERATOR_LABEL: "T4"},
)


def cluster(*nodes, **scaling):
    return Cluster(nodes=nodes, scaling=Scaling(**scaling))


def feasibility(around, gpus=0.0, kind=None):
    return check_feasible(resource_request(gpus, kind, around), around)


def test_a_cluster_of_cpus_is_asked_for_no_gpu():
    around = cluster(HEAD, CPUS)
    assert resource_request(0.0, None, around) == ResourceRequest(gpus=0.0)
    assert feasibility(around).when == "now"
    assert capacity(resource_request(0.0, None, around), around) == 16


def test_a_cluster_with_gpus_is_asked_for_whole_ones():
    around = cluster(HEAD, CPUS, A100, T4)
    assert resource_request(0.0, None, around) == ResourceRequest(gpus=1.0)
    assert capacity(resource_request(0.0, None, around), around) == 9


def test_gpus_that_may_come_are_asked_for_too():
    """Without this, the first worker of a cluster scaled down to no GPU node would run on the CPUs
    of a new GPU node."""
    around = cluster(HEAD, types=(NodeType(node=A100, max_nodes=4),), max_nodes=4)
    ask = resource_request(0.0, None, around)
    assert ask.gpus == 1.0
    assert check_feasible(ask, around).when == "later"
    assert capacity(ask, around) == 32


@pytest.mark.parametrize(("gpus", "slots"), [(0.5, 16), (0.3, 24), (1.0, 8), (3.0, 2), (9.0, 0)])
def test_a_share_never_spans_two_gpus(gpus, slots):
    assert ResourceRequest(gpus=gpus).slots(A100) == slots


def test_cpus_bound_the_workers_of_a_node():
    assert ResourceRequest(gpus=0.1).slots(T4) == 4


@pytest.mark.parametrize(("node", "by_label"), [(A100, True), (UNLABELLED, False)])
def test_a_type_is_asked_for_by_label_where_nodes_carry_it(node, by_label):
    around = cluster(HEAD, T4, node)
    ask = resource_request(0.0, "A100", around)
    assert ask == ResourceRequest(gpus=1.0, accelerator_type="A100", is_by_label=by_label)
    key = "label_selector" if by_label else "accelerator_type"
    assert key in ask.options()
    assert check_feasible(ask, around).when == "now"
    assert capacity(ask, around) == 8


@pytest.mark.parametrize(
    ("around", "gpus", "kind", "message"),
    [
        (cluster(HEAD), 0.0, None, "at most 0 CPU and 0 GPU each"),
        (cluster(CPUS), 1.0, None, "at most 16 CPU and 0 GPU each.*--gpus-per-worker"),
        (cluster(A100), 16.0, None, "at most 96 CPU and 8 GPU each"),
        (cluster(T4), 0.0, "A100", "accelerator types: T4.*Pass an --accelerator-type that"),
        (cluster(A100), 0.0, "A100-80G", "pass A100, or start the nodes.*with --labels"),
        (cluster(A100), 0.0, "a100", "accelerator types: A100"),
        (cluster(A100), 16.0, "A100", "--gpus-per-worker"),
        (
            cluster(HEAD, types=(NodeType(node=T4, max_nodes=4),), max_nodes=4),
            0.0,
            "A100",
            "No autoscaler will add such a node",
        ),
        (
            cluster(HEAD, types=(NodeType(node=A100, max_nodes=0),), max_nodes=4),
            0.0,
            "A100",
            "No autoscaler will add such a node",
        ),
    ],
)
def test_what_can_never_be_is_said_at_once(around, gpus, kind, message):
    found = feasibility(around, gpus, kind)
    assert found.when == "never"
    assert found.line.count("\n") == 0
    assert re.search(message, found.line)


def test_an_autoscaler_that_cannot_be_read_is_waited_for():
    around = cluster(HEAD, is_unseen=True)
    assert feasibility(around, 1.0, "A100").when == "later"


def test_nodes_that_may_come_are_bounded_by_type_and_together():
    ask = ResourceRequest(gpus=1.0)
    kinds = (NodeType(node=T4, max_nodes=10), NodeType(node=A100, max_nodes=2))
    assert capacity(ask, cluster(HEAD, types=kinds, max_nodes=4)) == 2 * 8 + 2 * 1
    assert capacity(ask, cluster(HEAD, types=kinds, max_nodes=0)) == 1


@given(
    st.floats(0.05, 1.0),
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 16)), min_size=1, max_size=5),
)
def test_capacity_is_what_fits(share, sizes):
    nodes = [Node(resources={"CPU": float(cpu), "GPU": float(gpu)}) for cpu, gpu in sizes]
    around = cluster(*nodes)
    ask = ResourceRequest(gpus=share)
    fits = capacity(ask, around)
    assert fits == max(1, sum(ask.slots(node) for node in nodes))
    for node in nodes:
        assert ask.slots(node) <= node.resources["CPU"]
        assert ask.slots(node) * share <= node.resources["GPU"] + 1e-6
    assert (check_feasible(ask, around).when == "now") == any(ask.slots(node) for node in nodes)


CONFIG = """
max_workers: 6
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, node_config: {}}
  a100:
    resources: {CPU: 96, GPU: 8, "accelerator_type:A100": 1}
    labels: {ray.io/accelerator-type: A100}
    max_workers: 4
  any: {resources: {CPU: 8}}
"""


def test_node_types_of_a_cluster_launcher():
    scaling = parse_scaling(yaml.safe_load(CONFIG))
    head, a100, any_other = scaling.types
    assert (head.max_nodes, a100.max_nodes, any_other.max_nodes) == (0, 4, 6)
    assert a100.node == A100
    assert scaling.max_nodes == 6


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_CLUSTER_NAME", raising=False)
    return tmp_path


def test_what_the_head_says_of_its_autoscaler(home, monkeypatch):
    assert read_scaling() == Scaling()
    monkeypatch.setenv("RAY_CLUSTER_NAME", "dqar")
    assert read_scaling() == Scaling(is_unseen=True)
    (home / BOOTSTRAP).write_text(CONFIG)
    assert read_scaling() == parse_scaling(yaml.safe_load(CONFIG))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "- 1",
        "max_workers: x",
        ": :",
        "available_node_types: 3",
        "3",
        "max_workers: 2026-01-01",
    ],
)
def test_a_configuration_that_does_not_read_is_one_not_seen(home, text):
    (home / BOOTSTRAP).write_text(text)
    assert read_scaling() == Scaling(is_unseen=True)
