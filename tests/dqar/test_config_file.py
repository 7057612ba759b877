"""The YAML configuration: the seed's keys, a round trip of every field, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import given, reject
from hypothesis import strategies as st

from dqar.config import DQARConfig
from dqar.config_file import load_config, save_config, sections
from dqar.records import SITES

CONFIGS = Path(__file__).parents[2] / "configs"

README_SEED = """
reuse_gate:
  entropy_threshold: 2.0
  snr_low: 0.1
  snr_high: 10.0
  adaptive_entropy: true

quantization:
  mode: "per_tensor"
  bits: 8

layer_scheduling:
  enabled: true
  schedule_type: "step"
"""


@pytest.fixture
def written(tmp_path):
    """A YAML file with this text."""

    def write(text: str) -> Path:
        path = tmp_path / "some.yaml"
        path.write_text(text)
        return path

    return write


def values_of(name: str, hint: Any) -> st.SearchStrategy:
    """Values that a field of this type may take; most also pass the configuration's checks."""
    if name == "snr_high":
        return st.floats(min_value=1.0, allow_nan=False)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        return st.lists(st.sampled_from(SITES), min_size=1, unique=True).map(tuple)
    if choices := get_args(hint):
        return st.one_of(*(values_of(name, choice) for choice in choices))
    plain = {
        bool: st.booleans(),
        int: st.integers(1, 64),
        float: st.floats(0, 1),
        NoneType: st.none(),
    }
    return plain[hint]


FIELD_VALUES = {name: values_of(name, hint) for name, hint in get_type_hints(DQARConfig).items()}


@given(values=st.fixed_dictionaries(FIELD_VALUES))
def test_what_was_saved_loads_equal(tmp_path_factory, values):
    try:
        config = DQARConfig(**values)
    except ValueError:
        reject()
    path = tmp_path_factory.mktemp("config") / "any.yaml"
    save_config(config, path)
    assert load_config(path) == config


def test_every_field_has_one_key_of_its_own():
    placed = [name for names in sections().values() for name in names.values()]
    assert sorted(placed) == sorted(entry.name for entry in fields(DQARConfig))


def test_the_readmes_example_is_the_default(written):
    assert load_config(written(README_SEED)) == DQARConfig()


def test_the_shipped_files_are_the_two_seeds():
    assert load_config(CONFIGS / "default.yaml") == DQARConfig()
    assert load_config(CONFIGS / "slides.yaml") == DQARConfig.slides()


def test_the_default_file_shows_every_key():
    shown = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    assert {name: set(keys) for name, keys in shown.items()} == {
        name: set(keys) for name, keys in sections().items()
    }


@pytest.mark.parametrize("text", ["", "# nothing but comments\n", "reuse_gate:\n"])
def test_what_is_left_out_keeps_its_default(written, text):
    assert load_config(written(text)) == DQARConfig()


def test_whole_numbers_may_stand_for_real_ones(written):
    config = load_config(written("reuse_gate: {entropy_threshold: 3, snr_high: .inf}\n"))
    assert config == DQARConfig(entropy_threshold=3.0, snr_high=float("inf"))
    assert type(config.entropy_threshold) is float


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reuse_gates: {}", r"known sections\. Got 'reuse_gates'\. The nearest is 'reuse_gate'"),
        ("reuse_gate: {entropy_treshold: 2}", "Got 'entropy_treshold'.*'entropy_threshold'"),
        ("quantization: {bit: 8}", r"quantization must have known keys.*nearest is 'bits'"),
        ("quantization: {on: 8}", "known keys. Got True"),
        ("1: {}", "known sections. Got 1"),
        ("reuse_gate: 2.0", r"reuse_gate must hold keys with values\. Got 2\.0"),
        ("- reuse_gate", "must hold keys with values"),
        ("reuse_gate: {max_gap: 6.5}", r"reuse_gate\.max_gap must be a whole number\. Got 6\.5"),
        ("reuse_gate: {max_gap: true}", "must be a whole number. Got True"),
        ("reuse_gate: {max_gap: null}", "must be a whole number. Got None"),
        ("reuse_gate: {entropy_threshold: high}", "must be a number. Got 'high'"),
        ("reuse_gate: {entropy_threshold: .nan}", "must be a number. Got nan"),
        ("reuse_gate: {enabled: 1}", "must be true or false. Got 1"),
        ("quantization: {bits: 7}", r"bits must be one of 2, 4, 8, 16, 32\. Got 7"),
        ("quantization: {bits: 8.0}", r"bits must be one of .*Got 8\.0"),
        ("reuse: {sites: attn}", r"sites must be a list such as \[attn\]\. Got 'attn'"),
        ("reuse: {sites: [1]}", "must be a list such as"),
        ("layer_scheduling: {deep_layer_snr_threshold: x}", "must be a number or null. Got 'x'"),
        ("reuse: {sites: [norm]}", "must hold a valid configuration: sites must be one of"),
        ("reuse_gate: {snr_low: 20}", "snr_low must not exceed snr_high"),
        ("reuse_gate: {snr_low: 0.1", "must be a YAML file.*line 1"),
        ("reuse_gate: !!python/object:os.system {}", "must be a YAML file"),
        ("reuse_gate: 2025-13-45", "must be a YAML file.*month"),
        ("reuse_gate: " + "[" * 2000, "must be a YAML file.*recursion"),
        ("reuse_gate: {enabled: !!bool maybe}", "must be a YAML file"),
        ("reuse_gate: {max_gap: !!int ''}", "must be a YAML file"),
        ("reuse_gate: {snr_low: !!timestamp soon}", "must be a YAML file"),
        (f"reuse_gate: {{snr_high: {10**400}}}", r"must be a number\. Got 10+\.\.\.0+\. Mend"),
        (f"reuse_gate: {{max_gap: {2**63}}}", r"must be a whole number\. Got 9\d+\. Mend"),
        (f"reuse_gate: {{max_gap: 0x{'f' * 9999}}}", "Got a number of thousands of digits"),
        (f"reuse_gate:\n  ? 0x{'f' * 9999}\n  : 1", "Got a number of thousands of digits"),
        ("reuse_gate: {snr_low: 1e-3}", r"a number\. Got '1e-3'\. YAML takes it for text: write"),
        ("reuse_gate: {snr_low: '2.0'}", "YAML takes it for text"),
        ("reuse_gate: {snr_low: 'inf'}", "must be a number. Got 'inf'. Mend the value"),
        ("quantization: {bits: 8, bits: 4}", "must give each key once. Got 'bits' again"),
        ("quantization: {}\nreuse: {}\nquantization: {}", "Got 'quantization' again"),
    ],
)
def test_what_does_not_fit_is_named_with_its_file(written, text, said):
    path = written(text + "\n")
    with pytest.raises(ValueError, match=said) as refused:
        load_config(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.yaml must be a YAML file"):
        load_config(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.yaml must be a YAML file"):
        load_config(tmp_path / "binary.yaml")


def test_yaml_is_imported_only_to_read_a_file():
    code = "import sys, dqar, dqar.config_file; print('yaml' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"
