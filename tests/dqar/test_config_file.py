"""The YAML configuration: the DQAR paper's keys, a round trip of every field, refused files, and
any dataclass read from YAML."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import given, reject
from hypothesis import strategies as st

from dqar.config import DQARConfig
from dqar.config_file import load_config, read_yaml, save_config, sections
from dqar.records import SITES

CONFIGS = Path(__file__).parents[2] / "configs"

README_PAPER = """
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
    assert load_config(written(README_PAPER)) == DQARConfig()


def test_the_shipped_files_are_the_papers_and_the_talks():
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
        ("reuse_gates: {}", r"known keys\. Got 'reuse_gates'\. The nearest is 'reuse_gate'"),
        ("reuse_gate: {entropy_treshold: 2}", "Got 'entropy_treshold'.*'entropy_threshold'"),
        ("quantization: {bit: 8}", r"quantization must have known keys.*nearest is 'bits'"),
        ("quantization: {on: 8}", "texts as keys. Got 'on'. Quote it"),
        ("1: {}", "texts as keys. Got '1'"),
        ("reuse_gate: 2.0", r"reuse_gate must be keys with values\. Got 2\.0"),
        ("- reuse_gate", "must be keys with values"),
        ("reuse_gate: {max_gap: 6.5}", r"reuse_gate\.max_gap must be a whole number\. Got 6\.5"),
        ("reuse_gate: {max_gap: true}", "must be a whole number. Got True"),
        ("reuse_gate: {max_gap: null}", "must be a whole number. Got None"),
        ("reuse_gate: {entropy_threshold: high}", "must be a number. Got 'high'"),
        ("reuse_gate: {entropy_threshold: .nan}", "must be a finite number. Got nan"),
        ("reuse_gate: {enabled: 1}", "must be true or false. Got 1"),
        ("quantization: {bits: 7}", r"bits must be 2, 4, 8, 16 or 32\. Got 7"),
        ("quantization: {bits: 8.0}", r"bits must be a whole number\. Got 8\.0"),
        ("reuse: {sites: attn}", r"sites must be a list such as \[a, b\]\. Got 'attn'"),
        ("reuse: {sites: [1]}", r"sites\[0\] must be text\. Got 1\. Fix the value"),
        ("layer_scheduling: {deep_layer_snr_threshold: x}", "must be a number. Got 'x'"),
        ("reuse: {sites: [norm]}", "must hold a valid configuration: sites must be one of"),
        ("reuse_gate: {snr_low: 20}", "snr_low must not exceed snr_high"),
        ("reuse_gate: {snr_low: 0.1", "must be a YAML file.*line 1"),
        ("reuse_gate: !!python/object:os.system {}", "must be a YAML file"),
        ("reuse_gate: 2025-13-45", "must be a YAML file.*month"),
        ("reuse_gate: " + "[" * 2000, "must be a YAML file.*recursion"),
        ("reuse_gate: {enabled: !!bool maybe}", "must be a YAML file"),
        ("reuse_gate: {max_gap: !!int ''}", "must be a YAML file"),
        ("reuse_gate: {snr_low: !!timestamp soon}", "must be a YAML file"),
        (
            f"reuse_gate: {{snr_high: {10**400}}}",
            r"a number of at most .*Got 10+\.\.\.0+\. Fix",
        ),
        (f"reuse_gate: {{max_gap: {2**63}}}", r"must be a number of at most .*Got 9\d+\. Fix"),
        (f"reuse_gate: {{max_gap: 0x{'f' * 9999}}}", "Got a number of thousands of digits"),
        (f"reuse_gate:\n  ? 0x{'f' * 9999}\n  : 1", "texts as keys. Got '0xf+.*f+'"),
        (
            "reuse_gate: {snr_low: 1e-3}",
            r"a number\. Got '1e-3'\. Write .* YAML reads 1\.0e-3",
        ),
        ("reuse_gate: {snr_low: '2.0'}", "Write a number without quotes"),
        ("reuse_gate: {snr_low: 'inf'}", "must be a number. Got 'inf'. Fix the value"),
        ("quantization: {bits: 8, bits: 4}", "must give each key once. Got 'bits' again"),
        ("reuse: {sites: [&a [x], *a]}", "must repeat no list or section. Got an alias .* line 1"),
        ("reuse: &a {sites: *a}", "must repeat no list or section"),
        ("reuse: &a [&b [x, x], &c [*b, *b], &d [*c, *c], [*d, *d]]", "Got an alias"),
        ("2025-01-01: {}", "texts as keys. Got '2025-01-01'"),
        ("? [a]\n: 1", "must be a YAML file.*unhashable"),
        ("reuse: {sites: 2025-01-01}", r"a list such as \[a, b\]. Got '2025-01-01'"),
        ("reuse: {sites: !!set {attn}}", "must be a list"),
        ('reuse: {sites: ["\\ud800"]}', "must be Unicode text.*hex escape"),
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must not be negative. Got {self.rate}. Pass 0.5.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    name: str
    size: int | Literal["auto"] = "auto"
    counts: tuple[int, ...] = ()
    words: list[str] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)
    seconds: float | None = None


def test_any_dataclass_is_read(written):
    text = "{name: a, size: 3, counts: [1, 2], words: [x], inner: {rate: 1}, seconds: 2}"
    assert read_yaml(written(text), Outer) == Outer(
        name="a", size=3, counts=(1, 2), words=["x"], inner=Inner(rate=1.0), seconds=2.0
    )
    assert read_yaml(written("name: a"), Outer) == Outer(name="a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"some.yaml must hold 'name'\. Got no such key\. Add the key\."),
        ("{name: a, size: no}", r"size must be a whole number or 'auto'\. Got False"),
        ("{name: a, size: 2.0}", r"size must be a whole number or 'auto'\. Got 2\.0"),
        ("{name: a, counts: [1, 2.0]}", r"counts\[1\] must be a whole number\. Got 2\.0"),
        ("{name: a, words: [1]}", r"words\[0\] must be text\. Got 1"),
        ("{name: a, inner: {rates: 1}}", r"inner must have known keys\. Got 'rates'\. .*'rate'"),
        ("{name: a, inner: {rate: -1}}", r"inner: rate must not be negative\. Got -1\.0\."),
        ("{name: 1, inner: 2}", r"name must be text\. Got 1\."),
        ("{name: a, seconds: 1e3}", "YAML reads 1.0e-3 as a number"),
    ],
)
def test_any_dataclass_has_its_refusals(written, text, said):
    path = written(text)
    with pytest.raises(ValueError, match=said) as refused:
        read_yaml(path, Outer)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


ANY_YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(value=ANY_YAML | st.fixed_dictionaries({"name": ANY_YAML, "inner": ANY_YAML}))
def test_any_yaml_is_read_or_refused_in_one_line(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("config") / "any.yaml"
    path.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    try:
        read = read_yaml(path, Outer)
    except ValueError as refused:
        read = str(refused)
    assert isinstance(read, Outer) or (read.startswith(str(path)) and "\n" not in read)


def test_yaml_and_pydantic_are_imported_only_to_read_a_file():
    code = "import sys, dqar, dqar.config_file; print({'pydantic', 'yaml'} & {*sys.modules})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
