"""At least five random kills in one collection on three nodes: the dataset is the planned one."""

import random
from collections import Counter

import pytest

from benchmarks.faults import KINDS, Arena, Collection, draw_kinds
from pipeline.commit import open_traces
from pipeline.dataset import read_gates, read_trajectories
from pipeline.quarantine import FOLDER

TRAJECTORIES, STEPS, LAYERS = 120, 10, 8
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
def command(tmp_path_factory):
    """The flags of this file's collections: forty light units."""
    store = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    return {
        "--model": "digits",
        "--num-trajectories": TRAJECTORIES,
        "--steps": STEPS,
        "--batch-size": 3,
        "--tracking-uri": f"sqlite:///{store}",
    }


@pytest.fixture(scope="module")
def undisturbed(arena, command, tmp_path_factory):
    """Manifest of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "traces"
    assert Collection(arena, out, command).finish() == 0
    return open_traces(str(out)).manifest


def test_random_kills_lose_and_double_nothing(arena, command, undisturbed, tmp_path):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    run = Collection(arena, tmp_path / "traces", command)
    try:
        for kind in draw_kinds(rng, KILLS):
            print(run.disturb(kind, rng))
        code = run.finish()
    finally:
        run.end()
    print(run.log.read_text()[-3000:])
    assert code == 0
    kinds = Counter(fault.kind for fault in run.faults)
    assert kinds.total() >= 5
    assert set(kinds) == set(KINDS)
    manifest = open_traces(str(run.out)).manifest
    assert manifest["decision_digest"] == undisturbed["decision_digest"]
    assert manifest["data_digest"] == undisturbed["data_digest"]
    assert_whole(run.out)
    assert not list((run.out / FOLDER).glob("*"))


def assert_whole(out):
    """Every planned trajectory is there once, with all its gates."""
    ids = read_trajectories(str(out))["trajectory_id"].to_pylist()
    assert len(ids) == len(set(ids)) == TRAJECTORIES
    owners = Counter(read_gates(str(out), ["trajectory_id"])["trajectory_id"].to_pylist())
    assert owners == dict.fromkeys(ids, STEPS * LAYERS)
