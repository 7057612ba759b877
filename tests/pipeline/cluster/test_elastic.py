"""Actor pool on a cluster whose nodes join and leave: real Ray nodes with pretended GPUs."""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle

from pipeline.cluster.actor_pool import ActorPool
from pipeline.cluster.capacity import ACCELERATOR_LABEL
from pipeline.cluster.config import ClusterConfig
from pipeline.cluster.ray_cluster import cluster_around, join_ray, leave_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Waits:
    """Worker that writes a mark, waits for a file ``go`` and returns the id of its node."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def do(self, unit: int) -> str:
        with (self.folder / f"{unit}").open("a") as marks:
            marks.write("x")
        deadline = time.monotonic() + 120
        while not (self.folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return ray.get_runtime_context().get_node_id()


class FailsThere(Waits):
    """Worker that raises on one node, as on a node with a broken GPU."""

    def do(self, unit: int) -> str:
        here = ray.get_runtime_context().get_node_id()
        if here == (self.folder / "bad").read_text():
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        time.sleep(0.2)
        return here


@pytest.fixture(scope="module", autouse=True)
def classes_by_value():
    """Pickle this module's classes by value, because workers cannot import a test module."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def cluster(monkeypatch):
    """Start a head node without CPUs and join it; each test adds nodes."""
    from ray.cluster_utils import Cluster

    leave_ray()
    head = {"num_cpus": 0, "include_dashboard": False}
    around = Cluster(initialize_head=True, head_node_args=head)
    try:
        monkeypatch.setenv("RAY_ADDRESS", around.address)
        join_ray()
        yield around
    finally:
        leave_ray()
        around.shutdown()


def marks(folder: Path) -> dict[str, int]:
    return {path.name: len(path.read_text()) for path in folder.glob("[0-9]")}


def await_marks(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(marks(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(units: int, folder: Path, worker: type = Waits, **options: Any):
    """Run a pool in a thread, so that the test can change the cluster at the same time."""
    pool = ActorPool(worker, {"folder": str(folder)}, ClusterConfig(**options))
    map_unordered: list[Any] = []
    thread = threading.Thread(target=lambda: map_unordered.extend(pool.map_unordered(range(units))))
    thread.start()
    return thread, map_unordered


def test_a_node_that_joins_is_used(cluster, tmp_path):
    first = cluster.add_node(num_cpus=1)
    thread, map_unordered = start(4, tmp_path)
    await_marks(tmp_path, 1)
    second = cluster.add_node(num_cpus=1)
    await_marks(tmp_path, 2)
    (tmp_path / "go").touch()
    thread.join(timeout=120)
    assert sorted(one.unit for one in map_unordered) == [0, 1, 2, 3]
    assert {one.result for one in map_unordered} == {first.node_id, second.node_id}
    assert marks(tmp_path) == {"0": 1, "1": 1, "2": 1, "3": 1}


def test_units_of_a_node_that_leaves_are_done_by_another(cluster, tmp_path, capsys):
    stays, leaves = (cluster.add_node(num_cpus=1) for _ in range(2))
    thread, map_unordered = start(3, tmp_path)
    await_marks(tmp_path, 2)
    cluster.remove_node(leaves, allow_graceful=False)
    # The worker on the removed node lives on for a moment, and would finish if it were let go.
    printed, deadline = "", time.monotonic() + 120
    while "is tried again after attempt 1" not in printed and time.monotonic() < deadline:
        printed += capsys.readouterr().out
        time.sleep(0.05)
    (tmp_path / "go").touch()
    thread.join(timeout=120)
    assert {one.result for one in map_unordered} == {stays.node_id}
    assert sorted(one.attempts for one in map_unordered) == [1, 1, 2]
    assert sorted(marks(tmp_path).values()) == [1, 1, 2]


def test_a_unit_that_fails_on_one_node_is_done_on_the_other(cluster, tmp_path):
    bad, good = (cluster.add_node(num_cpus=1) for _ in range(2))
    (tmp_path / "bad").write_text(bad.node_id)
    thread, map_unordered = start(6, tmp_path, FailsThere)
    thread.join(timeout=200)
    assert sorted(one.unit for one in map_unordered) == list(range(6))
    assert {one.failure for one in map_unordered} == {None}
    assert {one.result for one in map_unordered} == {good.node_id}


@pytest.mark.parametrize("labelled", [True, False], ids=["label", "resource"])
def test_a_type_is_found_by_label_or_by_resource(cluster, tmp_path, labelled):
    cluster.add_node(num_cpus=1)
    how: dict[str, Any] = (
        {"labels": {ACCELERATOR_LABEL: "A100-80G"}}
        if labelled
        else {"resources": {"accelerator_type:A100-80G": 1}}
    )
    node = cluster.add_node(num_cpus=4, num_gpus=2, **how)
    pool = ActorPool(
        Waits,
        {"folder": str(tmp_path)},
        ClusterConfig(accelerator_type="A100-80G", gpus_per_worker=0.5),
    )
    assert pool.ask.is_by_label is labelled
    assert pool.num_workers == 4
    assert len(cluster_around().nodes) == 3
    (tmp_path / "go").touch()
    assert {place for _, place in pool.map_strict(range(3))} == {node.node_id}
