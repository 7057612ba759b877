"""Actor pool on a real Ray: each unit is done once, dead workers are replaced, and input that a
worker refuses ends the work with the worker's message."""

import os
import re
import signal
import time
import urllib.request

import pytest
import ray
from ray import cloudpickle

from pipeline.cluster.actor_pool import ActorPool
from pipeline.cluster.config import ClusterConfig
from pipeline.cluster.ray_cluster import leave_ray
from pipeline.errors import IncompleteError, InputError
from tests.pipeline.cluster import toy_workers
from tests.pipeline.cluster.toy_workers import (
    DiesAlways,
    DiesAtStart,
    DiesOnce,
    DiesOrFails,
    Fails,
    FailsOnce,
    HangsOnce,
    Names,
    Refuses,
    RefusesToStart,
    Toy,
)


@pytest.fixture(scope="module", autouse=True)
def classes_by_value():
    """Pickle the workers' classes by value, because workers cannot import a test module."""
    cloudpickle.register_pickle_by_value(toy_workers)
    yield
    cloudpickle.unregister_pickle_by_value(toy_workers)


@pytest.fixture(scope="module")
def local_ray():
    """Start a local Ray for this module, with two pretended CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _system_config={"metrics_report_interval_ms": 1000},
        )
        yield
        leave_ray()


@pytest.fixture
def pool(local_ray, tmp_path):
    """Return a function that builds a pool of a worker class; all workers share a folder."""

    def build(worker, workers=2, **options):
        keeps_idle = options.pop("keeps_idle", False)
        config = ClusterConfig(workers=workers, **options)
        return ActorPool(worker, {"folder": str(tmp_path)}, config, keeps_idle=keeps_idle)

    return build


def attempts(folder):
    return {path.name: len(path.read_text()) for path in folder.iterdir()}


def test_every_unit_comes_back_once(pool, tmp_path):
    done = list(pool(Toy).map_strict(range(12)))
    assert sorted(done) == [(unit, unit**2) for unit in range(12)]
    assert attempts(tmp_path) == {str(unit): 1 for unit in range(12)}


def test_more_workers_than_units_and_no_units_at_all(pool):
    crew = pool(Toy, workers=2)
    assert list(crew.map_strict([7])) == [(7, 49)]
    assert list(crew.map_strict([])) == []


def test_a_dead_worker_is_replaced_and_its_unit_done(pool, tmp_path):
    done = list(pool(DiesOnce, workers=1).map_strict(range(5)))
    assert sorted(done) == [(unit, unit**2) for unit in range(5)]
    assert attempts(tmp_path) == {"0": 1, "1": 2, "2": 1, "3": 2, "4": 1}


@pytest.mark.timeout(120)
def test_idle_workers_are_kept_until_they_die_or_the_pool_is_closed(pool):
    crew = pool(Names, workers=1, keeps_idle=True)
    (_, first), (_, again) = *crew.map_strict([1]), *crew.map_strict([1])
    assert again == first
    os.kill(first, signal.SIGKILL)
    ((_, second),) = crew.map_strict([1])
    assert second != first
    crew.close()
    ((_, third),) = crew.map_strict([1])
    assert third != second
    crew.close()


@pytest.mark.timeout(120)
def test_a_unit_that_kills_every_worker_is_given_up(pool, tmp_path):
    with pytest.raises(RuntimeError, match="2 workers died while working on 5"):
        list(pool(DiesAlways, workers=1, max_attempts=2).map_strict([5]))
    assert attempts(tmp_path) == {"5": 2}


def test_a_refusal_in_a_worker_is_a_refusal_here(pool):
    with pytest.raises(InputError, match=r"^unit must be even\. Got 3\. Pass 2\.$"):
        list(pool(Refuses).map_strict([3]))


@pytest.mark.timeout(60)
def test_a_refusal_of_a_starting_worker_is_a_refusal_here(pool):
    """Input that is refused at the start, such as unreadable weights, must not start workers
    without end."""
    with pytest.raises(InputError, match="must hold weights"):
        list(pool(RefusesToStart, workers=1).map_strict([3]))


@pytest.mark.timeout(120)
def test_workers_that_die_while_they_start_are_not_started_for_ever(pool, tmp_path):
    crew = pool(DiesAtStart, workers=1, max_attempts=2)
    with pytest.raises(RuntimeError, match="No worker could start: 2 in a row failed"):
        list(crew.map_unordered([3]))
    assert attempts(tmp_path) == {"0": 2}


def test_a_bug_in_a_worker_is_raised(pool):
    with pytest.raises(KeyError):
        list(pool(Fails).map_strict([3]))


@pytest.mark.slow
def test_a_unit_that_raises_is_tried_once_more_by_another_process(pool, tmp_path):
    done = {one.unit: one for one in pool(FailsOnce, workers=1).map_unordered(range(5))}
    assert sorted(done) == list(range(5))
    assert attempts(tmp_path) == {"0": 1, "1": 2, "2": 2, "3": 1, "4": 1}
    assert [done[unit].attempts for unit in range(5)] == [1, 2, 2, 1, 1]
    assert done[1].failure is None
    assert done[1].result != done[0].result
    failure = done[2].failure
    assert isinstance(failure.error, ArithmeticError)
    assert failure.text.strip().splitlines()[-1].startswith("ArithmeticError: unit 2 in process")
    assert "in do" in failure.text
    assert all(one.node and one.seconds > 0 for one in done.values())


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_deaths_and_errors_do_not_stop_the_other_units(pool, tmp_path):
    crew = pool(DiesOrFails, workers=2, max_attempts=3)
    done = {one.unit: one for one in crew.map_unordered(range(6))}
    assert {unit for unit, one in done.items() if one.failure} == {0, 1}
    assert (done[0].attempts, done[1].attempts) == (3, 2)
    assert "3 workers died while working on 0" in str(done[0].failure.error)
    assert attempts(tmp_path) == {"0": 3, "1": 2, "2": 1, "3": 1, "4": 1, "5": 1}


def test_a_refusal_ends_everything_whatever_the_others_do(pool):
    with pytest.raises(InputError, match="unit must be even"):
        list(pool(Refuses).map_unordered([3, 4]))


def test_what_the_cluster_cannot_hold_is_refused_at_once(pool, tmp_path):
    with pytest.raises(
        InputError, match=r"needs 1 CPU and 1 GPU of type A100.*No autoscaler will add such a node"
    ):
        pool(Toy, accelerator_type="A100")
    with pytest.raises(InputError, match="at most 2 CPU and 0 GPU"):
        pool(Toy, gpus_per_worker=0.5)
    assert attempts(tmp_path) == {}


def test_waiting_for_a_worker_has_an_end(pool, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.cluster.actor_pool.LOOK_EVERY_S", 0.1)
    crew = pool(Toy, accelerator_type="A100", worker_timeout_minutes=0.01)
    with pytest.raises(
        IncompleteError, match=r"^No worker was available.*of type A100.*again to continue"
    ):
        list(crew.map_strict([1]))
    assert "No autoscaler will add such a node" in capsys.readouterr().out


@pytest.mark.slow
def test_a_worker_that_hangs_is_killed_and_its_unit_tried_again(pool, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.cluster.actor_pool.LOOK_EVERY_S", 0.1)
    crew = pool(HangsOnce, unit_timeout_minutes=0.05, max_attempts=2)
    map_unordered = {outcome.unit: outcome for outcome in crew.map_unordered(range(4))}
    assert {unit: outcome.result for unit, outcome in map_unordered.items()} == {
        0: 0,
        1: 1,
        2: None,
        3: 9,
    }
    assert attempts(tmp_path) == {"0": 1, "1": 2, "2": 2, "3": 1}
    said = map_unordered[2].failure.text
    assert said.startswith("The unit took longer than 0.05 minutes. The worker hangs, or")
    assert said.endswith("--unit-timeout-minutes.")


@pytest.mark.slow
def test_ray_exports_what_a_pool_counts(pool):
    crew = pool(Toy)
    list(crew.map_strict(range(3)))
    crew.count("trajectories", 48)
    port = ray.nodes()[0]["MetricsExportPort"]
    wanted = {
        'ray_dqar_units_total{.*worker="Toy".*}',
        'ray_dqar_trajectories_total{.*worker="Toy".*} 48.0',
        'ray_dqar_queue_depth{.*worker="Toy".*} 0.0',
    }
    deadline, missing = time.monotonic() + 90, wanted
    while missing and time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        missing = {one for one in wanted if not re.search(one, text)}
        time.sleep(1.0)
    assert not missing


def test_workers_are_gone_when_the_work_is_done(pool):
    list(pool(Toy).map_strict(range(3)))
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources().get("CPU") == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workers", -1),
        ("gpus_per_worker", -0.5),
        ("worker_timeout_minutes", -1.0),
        ("unit_timeout_minutes", 0.0),
    ],
)
def test_negative_sizes_are_refused(field, value):
    with pytest.raises(ValueError, match=f"--{field.replace('_', '-')} must be"):
        ClusterConfig(**{field: value})
