"""The door: one line for bad input, exit code 2; configuration errors become refusals."""

import pytest

from pipeline.cli import (
    BAD_INPUT,
    JobParser,
    add_cluster_flags,
    add_tracking_flags,
    enter,
    split_names,
    whole_numbers,
)
from pipeline.errors import InputError, checked
from pipeline.storage.output_checks import refuse_relative_inside_job, refuse_unwritable


@pytest.fixture
def job(monkeypatch):
    """A parser under the name job.py, given these arguments."""

    def build(*arguments):
        monkeypatch.setattr("sys.argv", ["job.py", *arguments])
        parser = JobParser("A job.")
        parser.add_argument("--size", type=int, default=3, help="how large")
        return parser

    return build


def test_what_run_returns_is_the_exit_code(job):
    assert enter(job("--size", "7"), lambda arguments: arguments.size) == 7


def test_a_refusal_is_one_line_and_exit_code_2(job, capsys):
    def refuse(_):
        raise InputError("size must be\n  even. Got 3.\n Pass 4.")

    assert enter(job(), refuse) == BAD_INPUT == 2
    captured = capsys.readouterr()
    assert captured.err == "job.py: size must be even. Got 3. Pass 4.\n"
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["--size", "x"], ["--nope"], ["--siz", "3"]])
def test_bad_arguments_are_one_line_and_exit_code_2(job, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        enter(job(*arguments), lambda _: 0)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_programming_error_is_not_taken_for_bad_input(job):
    def fail(_):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        enter(job(), fail)


def test_help_shows_defaults(job, capsys):
    with pytest.raises(SystemExit) as ended:
        enter(job("--help"), lambda _: 0)
    assert ended.value.code == 0
    assert "how large (default: 3)" in capsys.readouterr().out


def test_checked_turns_a_value_error_into_a_refusal():
    with pytest.raises(InputError, match="invalid literal"):
        checked(lambda text: int(text), text="x")


@pytest.mark.parametrize("path", ["out", "./out", "runs/out"])
def test_relative_paths_are_refused_inside_a_job_only(monkeypatch, path):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    refuse_relative_inside_job(out=path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(InputError, match="--out must be absolute inside a Ray job"):
        refuse_relative_inside_job(out=path)


def test_absolute_paths_and_uris_pass_inside_a_job(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    refuse_relative_inside_job(out="/shared/out", traces="s3://bucket/traces", policy=None)


def test_a_folder_that_can_be_made_or_written_passes(tmp_path):
    for out in (tmp_path, tmp_path / "new" / "below"):
        refuse_unwritable(str(out))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/x", "file/x/y"):
        with pytest.raises(InputError, match="file in the way"):
            refuse_unwritable(str(tmp_path / out))


def test_split_names():
    assert split_names("attn, ff,") == ("attn", "ff")
    assert split_names("") == ()


def test_whole_numbers():
    assert whole_numbers("--orders", "0, 1,2,") == (0, 1, 2)
    assert whole_numbers("--orders", "") == ()


@pytest.mark.parametrize("text", ["x", "1,x", "-1", "1.5", "0;1", "+1", "²"])
def test_other_than_whole_numbers_are_refused_by_their_flag(text):
    with pytest.raises(InputError, match=r"--orders must be whole numbers\. Got"):
        whole_numbers("--orders", text)


def test_shared_flags_have_defaults():
    parser = JobParser("A job.")
    add_cluster_flags(parser)
    add_tracking_flags(parser)
    arguments = parser.parse_args([])
    assert (arguments.workers, arguments.gpus_per_worker) == (0, 0.0)
    assert (arguments.accelerator_type, arguments.tracking_uri) == (None, None)
    assert arguments.experiment == "dqar"
