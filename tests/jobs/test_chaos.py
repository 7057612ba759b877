"""At least five random kills in one collection on three nodes: the dataset is the planned one."""

import random
from collections import Counter

import pytest

from benchmarks.distributed.fault_injection import KINDS, Arena, Collection, draw_kinds
from pipeline.collect.quarantine import FOLDER
from pipeline.traces import read_gates, read_trajectories
from pipeline.traces.multi_dataset import open_traces

SIZES = (120, 480, 1920, 7680)
"""Trajectories of a collection: one that ends before its kills are done is followed by a larger."""
STEPS, LAYERS = 10, 8
KILLS = 6
SEED = random.SystemRandom().randrange(2**32)
"""Drawn anew for each run, and printed: pass it here to see a failure again."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def arena():
    around = Arena()
    yield around
    around.close()


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """The flags of this file's collections of light units, but for their size."""
    store = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    return {
        "--model": "digits",
        "--steps": STEPS,
        "--unit-size": 3,
        "--tracking-uri": f"sqlite:///{store}",
    }


@pytest.fixture(scope="module")
def disturbed(arena, flags, tmp_path_factory):
    """A collection that ended well after all of its kills, and its number of trajectories."""
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    for size in SIZES:
        out = tmp_path_factory.mktemp("disturbed") / "traces"
        run = disturb(Collection(arena, out, flags | {"--num-trajectories": size}), rng)
        if len(run.faults) == KILLS:
            return run, size
    raise AssertionError(f"{SIZES[-1]} trajectories ended before {KILLS} kills")


def disturb(run, rng):
    try:
        for kind in draw_kinds(rng, KILLS):
            print(run.disturb(kind, rng))
        code = run.finish()
    finally:
        run.end()
    print(run.log.read_text()[-3000:])
    assert code == 0
    return run


def test_random_kills_lose_and_double_nothing(arena, flags, disturbed, tmp_path):
    run, size = disturbed
    assert {fault.kind for fault in run.faults} == set(KINDS)
    alone = Collection(arena, tmp_path / "traces", flags | {"--num-trajectories": size})
    assert alone.finish() == 0
    killed, undisturbed = (open_traces(str(one.out)).manifest for one in (run, alone))
    for digest in ("decision_digest", "data_digest"):
        assert killed[digest] == undisturbed[digest]
    assert_whole(run.out, size)
    assert not list((run.out / FOLDER).glob("*"))


def assert_whole(out, size):
    """Every planned trajectory is there once, with all its gates."""
    ids = read_trajectories(str(out))["trajectory_id"].to_pylist()
    assert len(ids) == len(set(ids)) == size
    owners = Counter(read_gates(str(out), ["trajectory_id"])["trajectory_id"].to_pylist())
    assert owners == dict.fromkeys(ids, STEPS * LAYERS)
