from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import dqar
from dqar.policy.serialization import load_policy, save_policy
from dqar.policy.spec import PolicySpec
from dqar.records import FEATURES
from tests.dqar.policy.full_policy import FULL, policy_of


@pytest.fixture
def folder(tmp_path):
    save_policy(policy_of(FULL), tmp_path / "policy")
    return tmp_path / "policy"


def rewrite(folder: Path, **changes) -> None:
    path = folder / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip_is_exact(folder):
    loaded, original = load_policy(folder), policy_of(FULL)
    assert loaded.spec == original.spec
    assert loaded.state_dict().keys() == original.state_dict().keys()
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    features = torch.randn(5, len(FEATURES), generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded(features), original(features))


def test_loaded_policy_is_for_use_not_for_training(folder):
    loaded = load_policy(folder)
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_folder_holds_two_plain_files(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["policy.json", "policy.safetensors"]


def test_saving_over_a_policy_replaces_it(folder):
    save_policy(policy_of(), folder)
    assert load_policy(folder).spec == PolicySpec()


def test_wrong_schema_version_is_refused(folder):
    rewrite(folder, schema_version=99)
    with pytest.raises(ValueError, match=r"policy\.json must have schema version \d+. Got 99"):
        load_policy(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"policy"'])
def test_spoiled_json_is_refused(folder, text):
    (folder / "policy.json").write_text(text)
    with pytest.raises(ValueError, match=r"policy\.json must"):
        load_policy(folder)


@pytest.mark.parametrize("size", [0, 7, 200])
def test_truncated_weights_are_refused(folder, size):
    path = folder / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"policy\.safetensors must hold the weights"):
        load_policy(folder)


def test_weights_of_another_policy_of_the_same_shape_are_refused(folder, tmp_path):
    other = policy_of(FULL)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    save_policy(other, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "policy.safetensors", folder)
    with pytest.raises(ValueError, match=r"other bytes than those that policy\.json was written"):
        load_policy(folder)


def test_a_policy_that_names_no_digest_of_its_weights_is_read(folder):
    stored = json.loads((folder / "policy.json").read_text())
    del stored["weights_sha256"]
    (folder / "policy.json").write_text(json.dumps(stored))
    assert load_policy(folder).spec == policy_of(FULL).spec


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name):
        load_policy(folder)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"policy\.json must be a policy's JSON"):
        load_policy(tmp_path / "nowhere")


def test_unknown_feature_is_refused(folder):
    rewrite(folder, features=["phase_of_the_moon"], means=[], scales=[])
    with pytest.raises(ValueError, match=r"features must be known names.*phase_of_the_moon"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"means": ["x"]}, r"means\[0\] must be a number\. Got 'x'\. Train the policy again"),
        ({"features": "log_gap"}, r"features must be a list such as \[a, b\]\. Got 'log_gap'"),
        ({"steps": 8.0}, r"steps must be a whole number\. Got 8\.0"),
        ({"steps": True}, r"steps must be a whole number\. Got True"),
        ({"steps": 2**40}, r"steps must be from 0 to 2147483647\. Got 1099511627776"),
        ({"max_gap": 2**63}, r"max_gap must be a number of at most 2\^63 - 1\. Got 922"),
        ({"guidance": 10**400}, r"guidance must be a number of at most"),
        ({"guidance": float("inf")}, r"guidance must be a finite number\. Got inf"),
        ({"metrics": {"auc": float("nan")}}, r"metrics\.auc must be a finite number\. Got nan"),
        ({"sampler": "x"}, r"sampler must be one of .* Got 'x'"),
        ({"branch_mode": "x"}, r"branch_mode must be one of .* Got 'x'"),
        ({"granularity": "head"}, r"granularity must be 'gate' or 'step'\. Got 'head'"),
        ({"lineage": {"train": 1}}, r"lineage\.train must be text\. Got 1"),
        ({"rivals": [{"computed": [0], "more": 1}]}, r"rivals\[0\] must have known keys.*'more'"),
        ({"rivals": [{"forecast_order": 1}]}, r"rivals\[0\] must hold 'computed'"),
        ({"rivals": [{"computed": [0], "feedback": 2}]}, r"rivals\[0\]: forecast_order must be 0"),
        ({"sampler": "x" * 5000 + "\ud800"}, r"must be Unicode text"),
    ],
)
def test_a_wrong_field_is_named(folder, changes, line):
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=rf"policy\.json:? {line}"):
        load_policy(folder)


@pytest.mark.parametrize("depth", [150, 300, 900, 980, 10_000])
def test_deep_nesting_is_refused_in_one_line(folder, depth):
    text = (folder / "policy.json").read_text().rstrip().removesuffix("}")
    (folder / "policy.json").write_text(text + ', "steps": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(ValueError, match=r"policy\.json:? [^\n]+\Z") as refused:
        load_policy(folder)
    assert len(str(refused.value)) < 500


def test_fields_of_other_releases_are_left_out(folder):
    rewrite(folder, unheard_of={"a": [None]})
    assert load_policy(folder).spec == policy_of(FULL).spec


@pytest.mark.parametrize("changes", [{"hidden": [9, 4]}, {"members": 2}])
def test_weights_of_another_shape_are_refused(folder, changes):
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=r"policy\.safetensors must hold the weights"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": 0}, "members must be from 1 to 64"),
        ({"hidden": (4097,)}, "hidden must be from 1 to 4096"),
        ({"max_gap": -1}, "max_gap must be from 0 to 2147483647"),
        ({"features": ()}, "features must be known names"),
        ({"means": (1.0,)}, "means must have one value a feature"),
        ({"scales": (1.0, 2.0)}, "scales must have one value a feature"),
    ],
)
def test_spec_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PolicySpec(**changes)


def names_in(path: Path) -> set[str]:
    """Names of the modules imported and the attributes read in a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
    return found


def test_library_never_unpickles():
    for path in Path(dqar.__file__).parent.rglob("*.py"):
        names = names_in(path)
        assert not [n for n in names if n.split(".")[0] in ("pickle", "joblib", "shelve")], path
        assert "torch.load" not in names, path


def test_granularity_must_be_known():
    unchecked: Any = getattr(PolicySpec.__init__, "__wrapped__", PolicySpec.__init__)
    with pytest.raises(ValueError, match="granularity must be gate or step"):
        unchecked(object.__new__(PolicySpec), features=FEATURES, granularity="layer")


def test_cache_mode_must_be_known():
    with pytest.raises(ValueError, match=r"cache_mode must be one of.*Got 'fp8'"):
        PolicySpec(features=FEATURES, cache_mode="fp8")


def test_a_folder_without_an_order_is_of_plain_reuse(folder):
    stored = json.loads((folder / "policy.json").read_text())
    del stored["forecast_order"]
    (folder / "policy.json").write_text(json.dumps(stored))
    assert load_policy(folder).spec.forecast_order == 0
