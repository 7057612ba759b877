"""Several starts at once on a store that does not exist yet, and stores that cannot be used."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.errors import InputError
from pipeline.tracking.connection import connect
from pipeline.tracking.store import Store

STARTS = 4
START = """
import sys, time
from pathlib import Path
from pipeline.tracking.store import Store
(Path(sys.argv[2]) / sys.argv[3]).touch()
while len(list(Path(sys.argv[2]).iterdir())) < int(sys.argv[4]):
    time.sleep(0.01)
print(Store(sys.argv[1], "study").experiment_id)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_starts_at_once_on_a_new_store_find_one_experiment(tmp_path):
    uri, ready = f"sqlite:///{tmp_path}/below/mlflow.db", tmp_path / "ready"
    ready.mkdir()
    words = [sys.executable, "-c", START, uri, str(ready)]
    root = Path(__file__).parents[3]
    started = [
        subprocess.Popen(
            [*words, str(number), str(STARTS)],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(STARTS)
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * STARTS, ended
    assert len({out for out, _ in ended}) == 1, ended
    found = MlflowClient(uri).search_experiments(filter_string="name = 'study'")
    assert len(found) == 1


@pytest.mark.parametrize("place", ["/proc/dqar/mlflow.db", "/proc/mlflow.db", "{file}/mlflow.db"])
def test_a_file_that_cannot_be_made_is_refused_at_once(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    began = time.monotonic()
    with pytest.raises(InputError, match="must be an MLflow tracking store that answers"):
        Store("sqlite:///" + place.format(file=tmp_path / "file"), "study")
    # MLflow alone tries for two minutes.
    assert time.monotonic() - began < 30


def test_the_database_of_another_program_gets_no_tables(tmp_path):
    import sqlite3

    with sqlite3.connect(tmp_path / "cookies.db") as database:
        database.execute("CREATE TABLE cookies (name TEXT)")
    before = (tmp_path / "cookies.db").read_bytes()
    with pytest.raises(InputError, match="the database of another program"):
        Store(f"sqlite:///{tmp_path}/cookies.db", "study")
    assert (tmp_path / "cookies.db").read_bytes() == before


def test_the_loser_of_a_race_takes_the_winners_experiment(store_uri, monkeypatch):
    """Another start creates the experiment between the look-up and the creation."""
    other = connect(store_uri)
    real, calls = MlflowClient.get_experiment_by_name, []

    def look_up(client, name):
        calls.append(name)
        found = real(client, name)
        if len(calls) == 1:
            other.create_experiment(name)
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", look_up)
    mine, winners = Store(store_uri, "contested"), real(other, "contested")
    assert winners is not None
    assert mine.experiment_id == winners.experiment_id
