"""Commands and flags of the Markdown pages: each is one that its job's own parser takes."""

import importlib.util
import re
import shlex
from collections.abc import Mapping

import pytest

from pipeline.cli import parse_flags
from pipeline.evaluate.config import read_paper_settings
from pipeline.flags.names import flags_of
from tests.docs.markdown_pages import PAGES, RECORDS, ROOT, blocks_of, text_of

TODAY = [page for page in PAGES if page not in RECORDS]
SHELL = {"$MLFLOW": "http://HEAD:5000"}
"""Shell variables of the pages."""
COMMAND = re.compile(r"python jobs/(\w+)\.py([^\n`]*)")
MENTION = re.compile(r"`jobs/(\w+)\.py ([^`]*)`")
"""A command in a sentence, which may leave flags out."""
FLAG = re.compile(r"--[a-z][a-z-]+")
FOREIGN = {
    "--allowed-hosts": "MLflow",
    "--no-wait": "ray job submit",
    **dict.fromkeys(("--batch", "--compile", "--fits", "--minutes"), "benchmarks"),
    **dict.fromkeys(("--prove", "--quick", "--rounds"), "benchmarks"),
}
"""Flags of other programs that pages name, by the program."""


def commands_of(page):
    """``(job, flags)`` of each ``python jobs/JOB.py FLAGS`` and ``make doctor DOCTOR="FLAGS"``."""
    text = text_of(page).replace("\\\n", " ")
    for name, value in SHELL.items():
        text = text.replace(name, value)
    commands = [found for found in COMMAND.findall(text) if "the same flags" not in found[1]]
    doctor = re.findall(r'make doctor DOCTOR="([^"]*)"', text)
    return [*commands, *(("doctor", flags) for flags in doctor)]


def names_of(flags):
    """Names of the flags of a job, ``--help`` included."""
    kinds = flags.values() if isinstance(flags, Mapping) else [flags]
    return {"--help"}.union(*map(flags_of, kinds))


@pytest.mark.parametrize("page", [page for page in TODAY if commands_of(page)])
def test_every_command_parses(load_job, page):
    for job, flags in commands_of(page):
        # A comment after the command is the reader's.
        given = shlex.split(flags, comments=True)
        assert parse_flags(load_job(job).FLAGS, name=f"{job}.py", args=given)


def test_the_pages_have_commands_of_every_stage():
    jobs = {job for page in TODAY for job, _ in commands_of(page)}
    assert jobs >= {"collect", "train", "evaluate", "sample", "sweep", "doctor"}


def test_every_flag_that_a_page_names_is_there(load_job):
    jobs = [path.stem for path in (ROOT / "jobs").glob("*.py")]
    names = {job: names_of(load_job(job).FLAGS) for job in jobs}
    known = set(FOREIGN).union(*names.values())
    for page in TODAY:
        for job, flags in MENTION.findall(text_of(page)):
            assert set(FLAG.findall(flags)) <= names[job], (page, job, flags)
        for span in re.findall(r"`(--[^`]+)`", text_of(page)):
            assert set(FLAG.findall(span)) <= known, (page, span)


@pytest.mark.parametrize("page", TODAY)
def test_every_target_and_module_that_a_page_names_is_there(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text_of(page), re.MULTILINE))
    assert named <= targets
    for module in set(re.findall(r"python -m ((?:benchmarks|tests)[\w.]*\w)", text_of(page))):
        assert importlib.util.find_spec(module), module


def test_the_settings_of_the_guide_are_read(tmp_path):
    (block,) = blocks_of("docs/pipeline.md", "yaml")
    (tmp_path / "settings.yaml").write_text(block.code)
    settings = read_paper_settings(str(tmp_path / "settings.yaml"))
    assert (settings.cached, settings.cache_granularity) == ("kv", "per_head")
