"""Values read from files: a dataclass of exactly these values, or one line about the wrong one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqar.foreign_files import read_json
from dqar.validation import LARGEST, validate


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    name: str = ""
    size: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    count: int = 0
    share: float = 0.5
    is_on: bool = True
    bits: Literal[4, 8] = 8
    size: int | Literal["auto"] = "auto"
    parts: tuple[Part, ...] = ()
    rates: dict[str, float] = field(default_factory=dict)
    table: tuple[tuple[int, ...], ...] = ()


HOSTILE = st.sampled_from([10**400, 2**63, -(2**63), 8.0, True, float("nan"), float("inf"), 1e308])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | HOSTILE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
NAMES = sorted(Whole.__dataclass_fields__)


def as_written(value: Any) -> Any:
    return json.loads(json.dumps(value))


@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING) | ANYTHING)
def test_values_are_read_as_they_are_or_refused_in_one_line(value):
    try:
        read = validate(value, Whole, name="some.json", extra="forbid")
    except ValueError as refused:
        read = str(refused)
    if isinstance(read, str):
        assert read.startswith("some.json")
        assert "\n" not in read
        assert len(read) < 500
    else:
        kept = as_written(asdict(read))
        assert {name: kept[name] for name in value} == as_written(
            {
                name: [asdict(Part()) | part for part in item] if name == "parts" else item
                for name, item in value.items()
            }
        )


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"count": 1.0}, r"count must be a whole number\. Got 1\.0\. Fix it\."),
        ({"bits": 8.0}, r"bits must be a whole number\. Got 8\.0\. Fix it\."),
        ({"bits": True}, r"bits must be 4 or 8\. Got True\. Fix it\."),
        ({"count": LARGEST + 1}, r"count must be a number of at most 2\^63 - 1\. Got 9\d+\."),
        ({"rates": {"a": float("nan")}}, r"rates\.a must be a finite number\. Got nan\."),
        ({"share": float("inf")}, r"share must be a finite number\. Got inf\."),
        ({"parts": [{}, {"size": "2"}]}, r"parts\[1\]\.size must be a number\. Got '2'\. Write a"),
        ({"parts": [{"sise": 1}]}, r"parts\[0\] must have known keys\. Got 'sise'\."),
        ({"table": [[0], [0, None]]}, r"table\[1\]\[1\] must be a whole number\. Got None\."),
        ({"size": "big"}, r"size must be a whole number or 'auto'\. Got 'big'\."),
        ({"share": "x" * 10_000}, r"share must be a number\. Got 'x{1,30}\.\.\.x{1,30}'\."),
        ([], r"must be keys with values\. Got \[\]\."),
    ],
)
def test_a_wrong_value_is_named_with_its_fix(value, line):
    with pytest.raises(ValueError, match=rf"\Asome\.json:? {line}"):
        validate(value, Whole, name="some.json", fix="Fix it.", extra="forbid")


def test_unknown_keys_may_be_ignored():
    value = {"count": 3, "new": [{"a": None}], "parts": [{"more": 8.0}]}
    assert validate(value, Whole) == Whole(count=3, parts=(Part(),))


def test_whole_numbers_stand_for_real_ones():
    assert type(validate({"share": 1}, Whole).share) is float


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"\xff", b"9" * 5000, b"[" * 100_000, b'"' + b"x" * 101 + b'"']
)
def test_a_file_of_another_content_is_refused(tmp_path, data):
    path = tmp_path / "some.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"some\.json must be a plan's JSON\. Got: .*Fix it\."):
        read_json(path, what="a plan", fix="Fix it.", max_bytes=50_000)


def test_a_large_file_and_a_folder_are_refused(tmp_path):
    (tmp_path / "some.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="more than 7 bytes"):
        read_json(tmp_path / "some.json", what="a plan", fix="Fix it.", max_bytes=7)
    with pytest.raises(ValueError, match="must be a plan's JSON"):
        read_json(tmp_path, what="a plan", fix="Fix it.", max_bytes=10**6)
