"""First line of each job: its settings, and where each comes from."""

import json
import shutil

import pytest

from pipeline.models.model_info import find_model

DIGEST = find_model("digits").model_hash


@pytest.fixture
def unrecorded(tmp_path):
    """The shipped model without a recommended guidance scale."""
    folder = tmp_path / "model"
    shutil.copytree(find_model("digits").folder, folder)
    path = folder / "provenance.json"
    stored = json.loads(path.read_text())
    del stored["recommended"]
    path.write_text(json.dumps(stored))
    return folder


def sample(run_job, tmp_path, *flags):
    common = ("--out", tmp_path / "out", "--num-samples", "1", "--steps", "2", "--no-reference")
    code, out, err = run_job("sample", *common, *flags)
    assert code == 0, err
    return next(one for one in out.splitlines() if one.startswith("sample: model"))


def test_a_guidance_that_no_one_recorded_is_said(run_job, tmp_path, unrecorded):
    line = sample(run_job, tmp_path, "--model", unrecorded)
    assert line.startswith(f"sample: model {unrecorded} with digest ")
    assert line.endswith(
        "(flag), guidance scale 4 (default: the model records none), steps 2 (flag), "
        "sampler ddim (default), sites attn (default), dtype fp32 (default)"
    )


def test_a_recorded_guidance_and_a_flag_are_named(run_job, tmp_path):
    line = sample(run_job, tmp_path, "--model", "digits", "--sampler", "ddim")
    assert f"digits with digest {DIGEST} (flag), guidance scale 2 (the model's record)" in line
    assert "sampler ddim (flag)" in line


def test_a_training_names_its_traces(run_job, tmp_path, some_traces):
    # One trajectory is too few to fit, so that the line is all that is printed before the refusal.
    _, out, _ = run_job("train", "--traces", some_traces, "--out", tmp_path / "policy")
    (line,) = (one for one in out.splitlines() if one.startswith("train: model"))
    assert line.startswith(f"train: model digits with digest {DIGEST} (traces), ")
    assert "sites attn (traces)" in line
