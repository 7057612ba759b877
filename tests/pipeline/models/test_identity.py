"""Identity of a model: everything that changes a reference sample, nothing else, read once."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import pytest

from pipeline.collect.driver import plan_for
from pipeline.errors import InputError
from pipeline.models import identity
from pipeline.models.identity import describe_difference, identify
from pipeline.models.model_info import DIGITS
from pipeline.traces.commit import claim_output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the shipped model, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(DIGITS, tmp_path / "model")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_part_has_its_digest(folder):
    assert identify(folder) == identify(DIGITS)
    names = [part.partition("=")[0] for part in identify(folder).split(",")]
    assert names == ["transformer", "scheduler", "classifier"]


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("scheduler/scheduler_config.json", {"beta_schedule": "squaredcos_cap_v2"}),
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}),
        ("scheduler/scheduler_config.json", {"_class_name": "EulerDiscreteScheduler"}),
        ("transformer/config.json", {"num_layers": 9}),
    ],
)
def test_a_changed_setting_is_another_identity(folder, part, changes):
    before = identify(folder)
    edit(folder / part, **changes)
    assert describe_difference(before, identify(folder)) == f"another {part.split('/')[0]}"


def test_who_saved_a_model_and_the_order_of_its_settings_change_nothing(folder):
    before = identify(folder)
    for part in ("scheduler/scheduler_config.json", "transformer/config.json"):
        path = folder / part
        edit(path, _diffusers_version="9.9.9", _name_or_path="elsewhere")
        document = json.loads(path.read_text())
        path.write_text(json.dumps(dict(reversed(document.items())), indent=1))
    assert identify(folder) == before


def test_a_changed_weight_and_an_added_vae_are_other_identities(folder):
    before = identify(folder)
    weights = next((folder / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text("{}")
    assert describe_difference(before, identify(folder)) == "another transformer, vae"


def test_a_renamed_file_is_another_identity(folder):
    """Loaders choose files by their names."""
    before = identify(folder)
    weights = next((folder / "transformer").glob("*.safetensors"))
    weights.rename(weights.with_name(f"{weights.stem}.fp16.safetensors"))
    assert describe_difference(before, identify(folder)) == "another transformer"


def test_an_identity_of_an_earlier_version_is_said_to_be_one():
    assert "another version" in describe_difference("f" * 16, identify(DIGITS))


# Large files.


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are read through."""
    monkeypatch.setattr(identity, "LARGE", 1)
    names, read = [], identity._read_digest

    def counted(path):
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(identity, "_read_digest", counted)
    return names


def test_large_files_are_read_once(folder, reads):
    before = identify(folder)
    assert len(reads) == 2
    assert identify(folder) == before
    assert len(reads) == 2


def test_a_large_file_that_changed_is_read_again(folder, reads):
    before = identify(folder)
    weights = next((folder / "transformer").glob("*.safetensors"))
    about = weights.stat()
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    # Of the same size and time of modification, as a careless copy leaves it.
    os.utime(weights, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert describe_difference(before, identify(folder)) == "another transformer"


@pytest.mark.parametrize("damage", ["", "0" * 63, "x" * 64])
def test_a_damaged_or_missing_cache_is_no_harm(folder, reads, damage, tmp_path):
    before = identify(folder)
    for remembered in (tmp_path / "cache" / "dqar" / "file-digests").iterdir():
        remembered.write_text(damage)
    assert identify(folder) == before
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert identify(folder) == before


def test_another_noise_schedule_does_not_resume_a_collection(folder, tmp_path):
    sizes: dict[str, Any] = {"num_trajectories": 12, "batch_size": 6, "steps": 8}

    def claim():
        claim_output(tmp_path / "traces", plan_for(str(folder), designs="paced", **sizes))

    claim()
    claim()
    edit(folder / "scheduler" / "scheduler_config.json", beta_schedule="squaredcos_cap_v2")
    with pytest.raises(InputError, match="collected with a model with another scheduler"):
        claim()
