"""Paths that a job takes on this machine and inside a Ray job."""

import pytest

from pipeline.errors import InputError
from pipeline.storage.output_checks import refuse_unwritable
from pipeline.storage.path_checks import refuse_odd_paths


@pytest.mark.parametrize("path", ["out", "./out", "runs/out"])
def test_relative_paths_are_refused_inside_a_job_only(monkeypatch, path):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    refuse_odd_paths(out=path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(InputError, match="--out must be absolute inside a Ray job"):
        refuse_odd_paths(out=path)


def test_absolute_paths_and_uris_pass_inside_a_job(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    refuse_odd_paths(out="/shared/out", traces="s3://bucket/traces", policy=None)


def test_a_folder_that_can_be_made_or_written_passes(tmp_path):
    for out in (tmp_path, tmp_path / "new" / "below"):
        refuse_unwritable(str(out))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/x", "file/x/y"):
        with pytest.raises(InputError, match="file in the way"):
            refuse_unwritable(str(tmp_path / out))
