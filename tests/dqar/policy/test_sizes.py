"""A policy.json of any sizes takes no more memory than its weights' file justifies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
from safetensors.torch import load_file, save_file

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy, save_policy
from dqar.policy.spec import PolicySpec

BOMBS = [
    {"hidden": [4096] * 20, "members": 64},
    {"hidden": [4096] * 2, "members": 64},
    {"hidden": [1] * 200_000},
    {"features": ["log_gap"] * 200_000},
]


@pytest.fixture
def folder(tmp_path):
    save_policy(ReusePolicy(PolicySpec(hidden=(4,), members=2)), tmp_path)
    return tmp_path


def rewrite(folder, **changes):
    path = folder / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_large_sizes_are_refused_within_200_mib(folder):
    """In a process whose address space ends 200 MiB above what the imports took."""
    script = textwrap.dedent(
        """
        import json, pathlib, resource, sys
        from dqar.policy.serialization import load_policy
        folder, bombs = pathlib.Path(sys.argv[1]), json.load(sys.stdin)
        load_policy(folder)
        sound = json.loads((folder / "policy.json").read_text())
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
        for bomb in bombs:
            (folder / "policy.json").write_text(json.dumps(sound | bomb))
            try:
                load_policy(folder)
            except ValueError as refused:
                print(str(refused).replace(chr(10), "NEWLINE"))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        input=json.dumps(BOMBS),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(BOMBS)
    assert not any("allocate" in line or "memory" in line for line in lines), lines
    assert all("policy" in line and len(line) < 1000 and "NEWLINE" not in line for line in lines)


def test_other_sizes_than_those_of_the_weights_are_named(folder):
    rewrite(folder, members=3)
    with pytest.raises(ValueError, match=r"no tensor in place of F32 \["):
        load_policy(folder)


@pytest.mark.parametrize("change", ["further", "missing"])
def test_more_or_fewer_tensors_are_refused(folder, change):
    weights = load_file(folder / "policy.safetensors")
    if change == "further":
        weights["more"] = weights["networks.0.0.bias"].clone()
    else:
        del weights["networks.0.0.bias"]
    save_file(weights, folder / "policy.safetensors")
    rewrite(folder, weights_sha256=None)
    with pytest.raises(ValueError, match="no tensor"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"hidden": (1,) * 65}, "hidden layers"),
        ({"features": ("log_gap", "log_gap")}, "each once"),
        ({"sites": ("attn", "attn")}, "sites must be known names, each once"),
        ({"sites": ("nose",)}, "sites must be known names"),
        ({"features": ("log_gap",), "scales": (0.0,)}, "scales must be from"),
        ({"features": ("log_gap",), "means": (1e300,)}, "means must be within"),
        ({"savings": {"attn": -1.0}}, "savings must be at least 0"),
        ({"model_hash": "a" * 1001}, "model_hash must be of at most 1000 characters"),
        ({"guidance": 1e300}, "guidance must be within"),
        ({"plans": ((0,),), "plan_errors": (-1.0,), "steps": 2}, "plan_errors must be at least 0"),
        ({"lineage": {"train": "a\nb"}}, "lineage must hold run ids"),
    ],
)
def test_a_field_that_would_be_silently_wrong_is_refused(changes, line):
    with pytest.raises(ValueError, match=line):
        PolicySpec(**changes)


@pytest.mark.parametrize("name", ["scales", "savings", "model_hash"])
def test_a_missing_field_whose_default_is_wrong_is_refused(folder, name):
    path = folder / "policy.json"
    stored = json.loads(path.read_text())
    del stored[name]
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=f"must hold '{name}'"):
        load_policy(folder)


def test_a_repeated_key_is_refused(folder):
    path = folder / "policy.json"
    path.write_text(path.read_text().replace("{", '{"steps": 3,', 1))
    with pytest.raises(ValueError, match="the key 'steps' more than once"):
        load_policy(folder)
