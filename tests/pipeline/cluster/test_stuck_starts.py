"""Actors that Ray never starts although their resources are free, on a real Ray: an actor that also
asks for a resource which no node has stands for one that Ray has lost."""

import sys
from typing import Any

import pytest
import ray
from ray import cloudpickle

from pipeline.cluster import actor_pool, stuck_starts
from pipeline.cluster.actor_pool import ActorPool
from pipeline.cluster.config import ClusterConfig
from pipeline.cluster.ray_cluster import leave_ray, start_of
from pipeline.cluster.stuck_starts import await_starts
from pipeline.errors import IncompleteError


class Squares:
    def do(self, unit: int) -> int:
        return unit**2


class LosesFirst:
    """Actor class whose first actors are never started."""

    def __init__(self, remote, lost: int) -> None:
        self.remote = remote
        self.lost = lost

    def options(self, **options):
        self.lost -= 1
        return self.remote.options(**options, **never(self.lost >= 0))


def never(is_lost: bool) -> dict:
    return {"resources": {"never": 1}} if is_lost else {}


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        leave_ray()
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def losing(monkeypatch):
    """Return a function that builds a pool whose first actors are lost."""
    monkeypatch.setattr(actor_pool, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(actor_pool, "START_LIMIT_S", 0.3)
    monkeypatch.setattr(stuck_starts, "START_WAIT_S", 0.1)

    def build(lost, **options):
        pool = ActorPool(Squares, {}, ClusterConfig(**options))
        monkeypatch.setattr(pool, "_remote", LosesFirst(pool._remote, lost))
        return pool

    return build


@pytest.mark.timeout(120)
def test_an_actor_that_never_starts_is_replaced(losing, capsys):
    assert sorted(losing(1, workers=1).map_strict(range(3))) == [(0, 0), (1, 1), (2, 4)]
    assert "PENDING_CREATION without a process. It is replaced." in capsys.readouterr().out


@pytest.mark.timeout(120)
def test_a_ray_that_starts_nothing_ends_the_work_in_one_line(losing):
    with pytest.raises(IncompleteError, match=r"^A worker did not start.*without a process\. So"):
        list(losing(100, workers=1).map_strict([1]))


@pytest.mark.timeout(120)
def test_the_end_of_waiting_says_what_ray_reports(losing, monkeypatch):
    monkeypatch.setattr(actor_pool, "START_LIMIT_S", 60.0)
    pool = losing(100, workers=2, worker_timeout_minutes=0.01)
    with pytest.raises(IncompleteError, match="Ray reports 2 x PENDING_CREATION without a process"):
        list(pool.map_strict([1, 2]))


@pytest.mark.timeout(120)
def test_a_pool_kills_no_actor_before_it_has_begun(monkeypatch):
    """Ray loses the CPU of an actor that is killed between its lease and its ``__init__``."""
    monkeypatch.setattr(stuck_starts, "START_WAIT_S", 60.0)
    remote: Any = ray.remote(num_cpus=1)(Squares)
    actors = [remote.remote() for _ in range(2)]
    answers = {actor.do.remote(2): actor for actor in actors}
    lost = remote.options(**never(True)).remote()
    # Two slots are taken by the two actors, so that the third is known to wait.
    assert await_starts(answers | {lost.do.remote(2): lost}, slots=2) == [lost]
    assert ray.get(list(answers), timeout=0) == [4, 4]
    assert all(start_of(actor).has_process for actor in actors)
    monkeypatch.setattr(stuck_starts, "START_WAIT_S", 0.1)
    assert await_starts({lost.do.remote(2): lost}, slots=1) == [lost]
    for actor in (*actors, lost):
        ray.kill(actor)
