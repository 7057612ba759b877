"""Help pages of the jobs: every flag has a text, every default stands once, and no heavy import."""

import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args

import pytest

from pipeline.collect.driver import FIRST_ROUND
from pipeline.collect.flags import CollectFlags
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.flags import EvaluateFlags
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.exploration.designs import DESIGNS
from pipeline.flags.help import field_texts
from pipeline.flags.names import flags_of
from pipeline.flags.values import as_text
from pipeline.methods.base import GRIDS
from pipeline.methods.defaults import DEFAULT_METHODS, SweepDensity
from pipeline.methods.registry import offered_names, paper_names
from pipeline.models.sampling_choices import SAMPLER, SITES, STEPS
from pipeline.train.config import TrainConfig
from pipeline.train.flags import TrainFlags

JOBS = Path(__file__).parents[2] / "jobs"
NAMES = sorted(path.stem for path in JOBS.glob("*.py"))


def words_of(module):
    """The first words that a job needs before its flags, with the dataclass of each."""
    flags = module.FLAGS
    return (
        {(word,): kind for word, kind in flags.items()} if isinstance(flags, dict) else {(): flags}
    )


@pytest.mark.parametrize("name", NAMES)
def test_help_documents_every_flag(run_job, load_job, name):
    module = load_job(name)
    for words, kind in words_of(module).items():
        code, out, _ = run_job(name, *words, "--help")
        assert code == 0
        # None stands for what the text says.
        assert "None" not in out
        # Each flag has its placeholder, then a text.
        assert {flag for flag in flags_of(kind) if not shows_text(out, flag)} == set()
    assert not list(Path.cwd().iterdir())


def shows_text(page, flag):
    """True if a help page has a sentence beside a flag, or below it."""
    found = re.search(rf"^  {flag}(?: \S+)?\s+([A-Z].*)", page, re.MULTILINE)
    return found is not None


HEAVY = ("torch", "ray", "mlflow", "pyarrow", "diffusers", "numpy", "pandas")


@pytest.mark.parametrize("name", NAMES)
def test_help_imports_nothing_heavy(name):
    code = (
        "import runpy, sys\n"
        "sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, JOBS / f"{name}.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=JOBS.parent,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_help_states_the_defaults_that_follow_a_policy():
    texts = field_texts(CollectFlags)
    for name, field in {
        "forecast_orders": "forecast_orders",
        "error_feedback": "feedbacks",
    }.items():
        assert f"or {as_text(FIRST_ROUND[field])}." in texts[name]
    for kind in (CollectFlags, EvaluateFlags):
        texts = field_texts(kind)
        assert f"or {STEPS}." in texts["steps"]
        assert f"or {SAMPLER}." in texts["sampler"]
        assert f"or {as_text(SITES)}." in texts["sites"]


def test_help_names_every_design_and_every_method():
    text = field_texts(CollectFlags)["exploration"]
    assert all(design in text for design in DESIGNS)
    text = field_texts(EvaluateFlags)["methods"]
    assert {*offered_names()} <= {*re.findall(r"[\w-]+", text)}
    assert not set(DEFAULT_METHODS) & set(paper_names())


def test_sweep_densities_are_the_grids():
    assert get_args(SweepDensity) == tuple(GRIDS)


def test_help_of_a_script_as_a_user_starts_it():
    shown = subprocess.run(
        [sys.executable, JOBS / "collect.py", "--help"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0
    assert "--num-trajectories" in shown.stdout


STAGES = [(CollectFlags, CollectPlan), (TrainFlags, TrainConfig), (EvaluateFlags, EvaluateConfig)]
"""Flags of a stage, with the configuration that they become."""


@pytest.mark.parametrize(("flags", "config"), STAGES)
def test_a_setting_has_its_default_and_its_text_once(flags, config):
    """A field of both is inherited by both, unless a flag that is left out follows the policy."""
    for field in fields(flags):
        declared = [one for one in (flags, config) if field.name in one.__annotations__]
        follows = field.default is None or field.default is MISSING
        assert len(declared) < 2 or follows, field.name


def test_renamed_settings_agree_on_their_default():
    defaults = [{one.name: one.default for one in fields(kind)} for kind in STAGES[0]]
    assert defaults[0]["unit_size"] == defaults[1]["batch_size"]
    defaults = [{one.name: one.default for one in fields(kind)} for kind in STAGES[2]]
    assert defaults[0]["samples_per_task"] == defaults[1]["part_samples"]
