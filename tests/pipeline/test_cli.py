"""Flags from dataclasses: values, help pages, and one line with exit code 2 for bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import BAD_INPUT, UNFINISHED, parse_flags, run_job
from pipeline.errors import IncompleteError, InputError, StorageError, input_errors
from tests.pipeline.job_flags import Flags, Pool

NEEDED = ("--model", "m", "--traces", "t")


def parse(*args: str) -> Flags:
    return parse_flags(Flags, name="job.py", args=[*NEEDED, *args])


def test_defaults_are_those_of_the_dataclass():
    assert parse() == Flags(model="m", traces=["t"])


@pytest.mark.parametrize(
    ("args", "name", "value"),
    [
        (["--sampler", "dpm"], "sampler", "dpm"),
        (["--bits", "2"], "bits", 2),
        (["--size", "7"], "size", 7),
        (["--size", "auto"], "size", "auto"),
        (["--seed", "-1"], "seed", -1),
        (["--budget", "1e-2"], "budget", 0.01),
        (["--budget", "1/4"], "budget", 0.25),
        (["--budget=-inf"], "budget", float("-inf")),
        (["--orders", "2, 0,"], "orders", (2, 0)),
        (["--orders", ""], "orders", ()),
        (["--shares", "1/3,0.5"], "shares", (1 / 3, 0.5)),
        (["--sites", "attn, ff"], "sites", ("attn", "ff")),
        (["--kinds", "b,a"], "kinds", ("b", "a")),
        (["--policy", "p", "--policy", "n=q"], "policy", ["p", "n=q"]),
        (["--folder", "x/y"], "folder", Path("x/y")),
        (["--keep"], "keep", True),
        (["--workers", "3"], "pool", Pool(workers=3)),
        (["--share=0.5"], "pool", Pool(share=0.5)),
    ],
)
def test_values(args, name, value):
    assert getattr(parse(*args), name) == value


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--worker", "1"], "There is no flag --worker. Did you mean --workers? SEE"),
        (["--work", "1"], "There is no flag --work. Did you mean --workers? SEE"),
        (["--wrokers=1"], "There is no flag --wrokers. Did you mean --workers? SEE"),
        (["-workers", "1"], "There is no flag -workers. Did you mean --workers? SEE"),
        (["--x_y", "1"], "There is no flag --x_y. SEE"),
        (["--pool.workers", "1"], "There is no flag --pool.workers. Did you mean --workers? SEE"),
        (["--no-keep"], "There is no flag --no-keep. Did you mean --keep? SEE"),
        (["--"], "There is no flag --. SEE"),
        (["--seed=--"], "--seed must have a value. Got '--'. SEE"),
        (
            ["--budget", "-inf"],
            "There is no flag -inf. Write a value that begins with a dash as --budget=-inf. SEE",
        ),
        (["--seed", "1_000"], "--seed must be a whole number. Got '1_000'. SEE"),
        (["--seed", "\uff11"], "--seed must be a whole number. Got '\uff11'. SEE"),
        (["--budget", "nan"], "--budget must be a number. Got 'nan'. SEE"),
        (
            ["--folder", "a\nb"],
            "--folder must be a printable path that is not empty. Got 'a\\nb'. SEE",
        ),
        (
            ["--bits", "2", "--bits", "8"],
            "--bits must be given once. Got it 2 times. Pass it once.",
        ),
        (["--keep", "--keep"], "--keep must be given once. Got it 2 times. Pass it once."),
        (["junk"], "Every value must follow its flag. Got 'junk'. SEE"),
        (["--keep", "1"], "Every value must follow its flag. Got '1'. SEE"),
        (["--keep=1"], "Every value must follow its flag. Got '1'. SEE"),
        (["--seed"], "--seed must have a value. SEE"),
        (["--seed", "--keep"], "--seed must have a value. SEE"),
        (["--seed", "a"], "--seed must be a whole number. Got 'a'. SEE"),
        (["--seed", "1.5"], "--seed must be a whole number. Got '1.5'. SEE"),
        (["--seed", ""], "--seed must be a whole number. Got ''. SEE"),
        (["--seed", "None"], "--seed must be a whole number. Got 'None'. SEE"),
        (["--budget", "much"], "--budget must be a number. Got 'much'. SEE"),
        (["--budget", "1/0"], "--budget must be a number. Got '1/0'. SEE"),
        (["--budget", "None"], "--budget must be a number. Got 'None'. SEE"),
        (["--sampler", "foo"], "--sampler must be one of ddim, dpm. Got 'foo'. SEE"),
        (["--sampler", "None"], "--sampler must be one of ddim, dpm. Got 'None'. SEE"),
        (["--bits", "3"], "--bits must be one of 2, 8. Got '3'. SEE"),
        (["--size", "many"], "--size must be a whole number or auto. Got 'many'. SEE"),
        (
            ["--orders", "0;1"],
            "--orders must be whole numbers with commas between them, such as 0,1,2. Got '0;1'. "
            "SEE",
        ),
        (
            ["--shares", "0,x"],
            "--shares must be numbers with commas between them, such as 0,0.5. Got '0,x'. SEE",
        ),
        (
            ["--kinds", "a,c"],
            "--kinds must be one of a, b, or several with commas between them. Got 'a,c'. SEE",
        ),
        (["--workers", "-1"], "workers must be at least 0. Got -1. Pass --workers 2."),
        (["--size", "0"], "size must be at least 1. Got 0. Pass --size 48."),
    ],
)
def test_bad_input_is_one_line(args, said):
    with pytest.raises(InputError) as refused:
        parse(*args)
    assert str(refused.value) == said.replace("SEE", "See job.py --help.")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "--model and --traces are required. See job.py --help."),
        (["--model", "m"], "--traces is required. See job.py --help."),
        (["--modle", "m"], "There is no flag --modle. Did you mean --model? See job.py --help."),
    ],
)
def test_missing_flags_are_one_line(args, said):
    with pytest.raises(InputError) as refused:
        parse_flags(Flags, name="job.py", args=args)
    assert str(refused.value) == said


def test_the_result_of_a_job_is_its_exit_code():
    assert run_job(Flags, lambda flags: flags.seed, name="job.py", args=[*NEEDED, "--seed=7"]) == 7


def test_arguments_are_those_of_the_process(monkeypatch):
    monkeypatch.setattr("sys.argv", ["job.py", *NEEDED])
    assert run_job(Flags, lambda flags: len(flags.traces), name="job.py") == 1


@pytest.mark.parametrize(
    ("error", "code"), [(InputError, BAD_INPUT), (IncompleteError, UNFINISHED)]
)
def test_a_refusal_of_the_job_is_its_line(capsys, error, code):
    def refuse(_):
        raise error("size must be even. Got 3. Pass 4.")

    assert run_job(Flags, refuse, name="job.py", args=NEEDED) == code
    captured = capsys.readouterr()
    assert captured.err == "job.py: --size must be even. Got 3. Pass 4.\n"
    assert captured.out == ""


def test_the_line_is_printable_and_keeps_its_fix(capsys):
    def refuse(_):
        raise InputError(f"A \x1b[31m text must be short. Got {'x' * 5000}. Pass another.")

    run_job(Flags, refuse, name="job.py", args=NEEDED)
    line = capsys.readouterr().err
    assert line.startswith("job.py: A \\x1b[31m text must be short. Got xxx")
    assert line.endswith("xxx. Pass another.\n")
    assert len(line) < 1300


def test_bad_flags_end_with_exit_code_2(capsys):
    assert run_job(Flags, lambda _: 0, name="job.py", args=["--nope"]) == BAD_INPUT == 2
    captured = capsys.readouterr()
    assert captured.err == "job.py: There is no flag --nope. See job.py --help.\n"
    assert captured.out == ""


def test_a_programming_error_is_not_taken_for_bad_input(capsys):
    def fail(_):
        raise ValueError("a bug")

    assert run_job(Flags, fail, name="job.py", args=NEEDED) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback (most recent call last)")
    assert printed.endswith("ValueError: a bug\n")


def test_value_errors_of_a_block_become_input_errors():
    with pytest.raises(InputError, match="invalid literal"), input_errors():
        int("x")
    with pytest.raises(StorageError), input_errors():
        raise StorageError("storage must answer.")
    with pytest.raises(KeyError), input_errors():
        raise KeyError("x")
