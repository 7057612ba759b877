"""A fleet on a real Ray: every unit once, dead workers replaced, refusals kept as refusals."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle

from pipeline.door import Refusal
from pipeline.fleet import Fleet, FleetConfig, join_ray, leave_ray


class Toy:
    """Squares numbers; leaves a mark for each attempt."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def do(self, unit: int) -> Any:
        with (self.folder / f"{unit}").open("a") as marks:
            marks.write("x")
        return unit**2


class DiesOnce(Toy):
    """Its process ends at the first attempt at units 1 and 3."""

    def do(self, unit: int) -> int:
        is_first = not (self.folder / f"{unit}").exists()
        result = super().do(unit)
        if is_first and unit in (1, 3):
            os._exit(1)
        return result


class DiesAlways(Toy):
    def do(self, unit: int) -> int:
        super().do(unit)
        os._exit(1)


class Refuses(Toy):
    def do(self, unit: int) -> int:
        raise Refusal(f"unit must be even. Got {unit}. Pass 2.")


class RefusesToStart(Toy):
    def __init__(self, folder: str) -> None:
        with (Path(folder) / "starts").open("a") as marks:
            marks.write("x")
        if len((Path(folder) / "starts").read_text()) > 3:
            time.sleep(600)
        raise Refusal("folder must hold weights. Got none. Pass another.")


class Fails(Toy):
    def do(self, unit: int) -> int:
        raise KeyError(unit)


class Meets(Toy):
    """Waits until as many workers as there are units hold one; says which node it is on."""

    def do(self, unit: int) -> str:
        (self.folder / f"{unit}").touch()
        deadline = time.monotonic() + 120
        while len(list(self.folder.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        return ray.get_runtime_context().get_node_id()


@pytest.fixture(scope="module", autouse=True)
def classes_by_value():
    """Workers cannot import a test module: its classes travel by value."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def local_ray():
    """Ray of this module's own, on two pretended CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        leave_ray()


@pytest.fixture
def fleet(local_ray, tmp_path):
    """Builds a fleet of a class whose workers share a folder."""

    def build(worker, workers=2, **options):
        return Fleet(worker, {"folder": str(tmp_path)}, FleetConfig(workers=workers, **options))

    return build


def attempts(folder):
    return {path.name: len(path.read_text()) for path in folder.iterdir()}


def test_every_unit_comes_back_once(fleet, tmp_path):
    done = list(fleet(Toy).work(range(12)))
    assert sorted(done) == [(unit, unit**2) for unit in range(12)]
    assert attempts(tmp_path) == {str(unit): 1 for unit in range(12)}


def test_more_workers_than_units_and_no_units_at_all(fleet):
    crew = fleet(Toy, workers=2)
    assert list(crew.work([7])) == [(7, 49)]
    assert list(crew.work([])) == []


def test_a_dead_worker_is_replaced_and_its_unit_done(fleet, tmp_path):
    done = list(fleet(DiesOnce, workers=1).work(range(5)))
    assert sorted(done) == [(unit, unit**2) for unit in range(5)]
    assert attempts(tmp_path) == {"0": 1, "1": 2, "2": 1, "3": 2, "4": 1}


@pytest.mark.timeout(120)
def test_a_unit_that_kills_every_worker_is_given_up(fleet, tmp_path):
    with pytest.raises(RuntimeError, match="died 2 times over 5"):
        list(fleet(DiesAlways, workers=1, max_attempts=2).work([5]))
    assert attempts(tmp_path) == {"5": 2}


def test_a_refusal_in_a_worker_is_a_refusal_here(fleet):
    with pytest.raises(Refusal, match=r"^unit must be even\. Got 3\. Pass 2\.$"):
        list(fleet(Refuses).work([3]))


@pytest.mark.timeout(60)
def test_a_refusal_of_a_starting_worker_is_a_refusal_here(fleet):
    """As when the weights cannot be read: the fleet must not hire for ever."""
    with pytest.raises(Refusal, match="must hold weights"):
        list(fleet(RefusesToStart, workers=1).work([3]))


def test_a_bug_in_a_worker_is_raised(fleet):
    with pytest.raises(KeyError):
        list(fleet(Fails).work([3]))


def test_workers_are_gone_when_the_work_is_done(fleet):
    list(fleet(Toy).work(range(3)))
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources().get("CPU") == 2


@pytest.mark.parametrize(("field", "value"), [("workers", -1), ("gpus_per_worker", -0.5)])
def test_negative_sizes_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        FleetConfig(**{field: value})


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_cluster_of_two_nodes_shares_the_work(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    leave_ray()
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        join_ray()
        done = dict(Fleet(Meets, {"folder": str(tmp_path)}, FleetConfig()).work([0, 1]))
        assert set(done.values()) == {node.node_id for node in nodes}
    finally:
        leave_ray()
        cluster.shutdown()
