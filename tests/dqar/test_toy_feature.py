"""A new feature takes a name and one line in one file; it is then collected and trained on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = ('    "feedback",\n)\n"""Every feature', '    "feedback",\n    "toy",\n)\n"""Every feature')
VALUE = (
    "            case _:\n                return getattr(self, name)\n",
    '            case "toy":\n                return self.depth[:, None] + 1.0\n'
    "            case _:\n                return getattr(self, name)\n",
)
PROGRAM = """
import numpy as np
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from pipeline.collect.worker import Collector
from pipeline.exploration.collect_plan import CollectPlan, Unit
from pipeline.models.model_info import find_model
from pipeline.traces.tables import GATES, to_table

info = find_model("digits")
plan = CollectPlan(model="digits", model_hash=info.model_hash, steps=4, guidance_scale=2.0)
unit = Unit(unit_id="toy", index=0, start=0, stop=3)
_, gates = Collector(plan, root="").sample(unit)
table = to_table(gates, GATES)
toy, depth = table["toy"].to_numpy(), table["depth"].to_numpy()
np.testing.assert_array_equal(toy, depth + 1.0)
assert len(set(toy)) == info.num_layers
policy = ReusePolicy(PolicySpec(features=("toy",)))
print(len(policy.spec.features))
"""


@pytest.mark.slow
def test_a_feature_is_added_in_one_file(tmp_path):
    for tree in ("dqar", "pipeline"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / tree, tmp_path / tree, ignore=ignored)
    records = tmp_path / "dqar" / "records.py"
    text = records.read_text()
    for before, after in (NAME, VALUE):
        assert text.count(before) == 1
        text = text.replace(before, after)
    records.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
