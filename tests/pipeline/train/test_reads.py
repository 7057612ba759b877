"""One training opens its traces once, compares each of their files with its digest once, and reads
each once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from jobs.train import FLAGS, run
from pipeline.cli import parse_flags
from pipeline.storage.local_folder import LocalFolder
from pipeline.traces import dataset, multi_dataset, tables
from pipeline.tracking import Tracker
from pipeline.train.config import TrainConfig
from pipeline.train.run import train_policy


@pytest.fixture
def reads(monkeypatch):
    """Counts of datasets opened, documents read and table files opened."""
    counts = Counter()

    def count(owner, name, key_of):
        real = getattr(owner, name)

        def counted(*arguments, **named):
            counts[key_of(*arguments)] += 1
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, counted)

    count(LocalFolder, "read", lambda folder, key, *_: key)
    count(LocalFolder, "open", lambda folder, key, *_: key)
    count(LocalFolder, "sha256", lambda folder, key, *_: f"verified {key}")
    count(tables.pa, "OSFile", lambda path, *_: "/".join(Path(path).parts[-2:]))
    count(dataset, "_refuse_damaged", lambda opened: "opened")
    return counts


def assert_read_once(reads, uris):
    parts = multi_dataset.open_traces(uris).parts
    files = {
        key for part in parts for name in ("gates", "trajectories") for key in part.shards(name)
    }
    found = Counter({key: count for key, count in reads.items() if key in files})
    assert found == Counter(dict.fromkeys(files, 1))
    verified = {key for key, count in reads.items() if key.startswith("verified ") and count == 1}
    assert verified == {f"verified {key}" for key in files}


CONFIGS = {
    "plans": TrainConfig(members=1),
    "local": TrainConfig(members=1, label="local"),
    "full": TrainConfig(members=1, features="full"),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_training_reads_everything_once(traces, tmp_path, reads, config):
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "reads")
    opened = multi_dataset.open_traces(str(traces))
    train_policy(config, opened, str(tmp_path / "policy"), tracker)
    counted = Counter(reads)
    assert counted["opened"] == 1
    assert counted["plan.json"] == 1
    assert [count for key, count in counted.items() if key.startswith("_manifest/")] == [1]
    assert_read_once(counted, str(traces))


def test_the_command_reads_everything_once(traces, near_traces, tmp_path, reads):
    uris = (str(traces), str(near_traces))
    words = [word for uri in uris for word in ("--traces", uri)]
    store = f"sqlite:///{tmp_path}/mlflow.db"
    args = [*words, "--out", str(tmp_path / "policy"), "--tracking-uri", store]
    run(parse_flags(FLAGS, name="train.py", args=args))
    counted = Counter(reads)
    assert counted["opened"] == counted["plan.json"] == 2
    assert sum(count for key, count in counted.items() if key.startswith("_manifest/")) == 2
    assert_read_once(counted, uris)
