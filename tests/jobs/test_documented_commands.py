"""Commands that a reader pastes: each is one that its job's own parser takes."""

import re
import shlex
from pathlib import Path

import pytest

from pipeline.cli import parse_flags

ROOT = Path(__file__).parents[2]
SHELL = {"$MLFLOW": "http://HEAD:5000"}
"""Shell variables of the pages."""
PAGES = {
    "README.md": {"collect", "train", "evaluate", "doctor"},
    "docs/add_a_method.md": {"evaluate"},
    "docs/cluster.md": {"collect", "train", "evaluate", "doctor"},
    "docs/pipeline.md": {"collect", "train", "evaluate", "sweep"},
    "docs/results.md": {"collect", "train", "evaluate"},
    "docs/usage.md": {"sample"},
}
"""Jobs whose commands each page shows."""


def commands_of(page):
    """``(job, flags)`` of each ``python jobs/JOB.py FLAGS`` and ``make doctor DOCTOR="FLAGS"``."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    for name, value in SHELL.items():
        text = text.replace(name, value)
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    found = re.findall(r"python jobs/(\w+)\.py([^\n]*)", blocks)
    doctor = re.findall(r'make doctor DOCTOR="([^"]*)"', blocks)
    return [*found, *(("doctor", flags) for flags in doctor)]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(load_job, page):
    commands = [(job, flags) for job, flags in commands_of(page) if "the same flags" not in flags]
    assert {job for job, _ in commands} == PAGES[page]
    for job, flags in commands:
        # A comment after the command is the reader's.
        given = shlex.split(flags, comments=True)
        assert parse_flags(load_job(job).FLAGS, name=f"{job}.py", args=given)


def test_every_path_that_the_guide_names_is_there():
    text = (ROOT / "docs" / "cluster.md").read_text()
    named = set(re.findall(r"`((?:deploy|tests|jobs|docs)/[\w./]+)`", text))
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
