"""A policy folder of any content is a policy or one clear line, and nothing outside is touched."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy, save_policy
from dqar.policy.spec import PolicySpec

SPEC = PolicySpec(
    features=("log_gap", "progress"),
    means=(0.0, 0.5),
    scales=(1.0, 2.0),
    members=2,
    steps=6,
    plans=((0,), (0, 3)),
    plan_errors=(0.2, 0.1),
)
FIELDS = sorted(PolicySpec.__dataclass_fields__)
HOSTILE = st.sampled_from(["../../x", "/etc/passwd", "\x00", "a" * 5000, "NaN", "é\u202e", ""])
HUGE = st.sampled_from([10**400, -(10**30), 2**63, 1e308, float("nan"), float("inf"), -0.0])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | HOSTILE | HUGE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The two files of a sound policy, and the folder to spoil them in."""
    folder = tmp_path_factory.mktemp("house") / "policy"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_policy(ReusePolicy(SPEC), folder)
    spec, weights = folder / "policy.json", folder / "policy.safetensors"
    stored = json.loads(spec.read_text())
    # With the digest nothing of spoilt weights would be read at all.
    del stored["weights_sha256"]
    return folder, stored, weights.read_bytes()


def write(files, stored, weights=None):
    folder, _, sound = files
    text = stored if isinstance(stored, bytes) else json.dumps(stored).encode()
    (folder / "policy.json").write_bytes(text)
    (folder / "policy.safetensors").write_bytes(sound if weights is None else weights)
    return folder


def read(folder: Path) -> ReusePolicy | None:
    """The policy, or None after one clear line; anything else fails the test."""
    before = sorted(path.name for path in folder.parent.rglob("*"))
    policy, said = None, "policy"
    try:
        policy = load_policy(folder)
    except ValueError as error:
        said = str(error)
    assert "policy" in said
    assert "\n" not in said
    assert len(said) < 2000
    assert sorted(path.name for path in folder.parent.rglob("*")) == before
    return policy


def assert_usable(policy: ReusePolicy) -> None:
    """What was read can be asked."""
    spec = policy.spec
    rows = torch.zeros(3, len(spec.features))
    assert policy(rows).shape == (3,)
    assert isinstance(spec.schedule_of().computed if spec.plans else (), tuple)
    assert spec.saving_of_site()


@given(name=st.sampled_from(FIELDS), value=JSON)
def test_a_strange_field_is_one_clear_line_or_a_policy(files, name, value):
    policy = read(write(files, files[1] | {name: value}))
    if policy is not None:
        assert_usable(policy)


@given(st.data())
def test_a_strange_item_is_one_clear_line_or_a_policy(files, data):
    many = [name for name, value in files[1].items() if isinstance(value, list | dict) and value]
    stored = json.loads(json.dumps(files[1]))
    inside = stored[data.draw(st.sampled_from(sorted(many)))]
    places = sorted(inside) if isinstance(inside, dict) else list(range(len(inside)))
    inside[data.draw(st.sampled_from(places))] = data.draw(JSON)
    policy = read(write(files, stored))
    if policy is not None:
        assert_usable(policy)


@given(st.permutations(FIELDS), st.sets(st.sampled_from(FIELDS)))
def test_keys_may_come_in_any_order(files, order, dropped):
    stored = {name: files[1][name] for name in order if name not in dropped}
    policy = read(write(files, stored | {"schema_version": 1, "unknown": 3}))
    if not dropped:
        assert policy is not None
        assert policy.spec == SPEC


@given(
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.sampled_from(
        [b"[" * 100_000, b'{"a":' * 50_000, b"1" * 100_000, b"\xff\xfe", b"\xef\xbb\xbf{}"]
    )
)
def test_other_bytes_are_refused(files, content):
    assert read(write(files, content)) is None


@given(st.data())
def test_truncated_files_are_refused(files, data):
    _, stored, weights = files
    text = (json.dumps(stored) + "\n").encode()
    cut = data.draw(st.integers(0, len(text) - 3))
    assert read(write(files, text[:cut])) is None
    cut = data.draw(st.integers(0, len(weights) - 1))
    assert read(write(files, stored, weights[:cut])) is None


def header_of(weights: bytes) -> tuple[dict, bytes]:
    (size,) = struct.unpack("<Q", weights[:8])
    return json.loads(weights[8 : 8 + size]), weights[8 + size :]


def with_header(header, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@given(st.data(), JSON)
def test_a_strange_header_of_the_weights_is_refused_or_read(files, data, value):
    header, body = header_of(files[2])
    name = data.draw(st.sampled_from(sorted(header)))
    change = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "all", "name"]))
    if change == "all":
        header[name] = value
    elif change == "name":
        header[data.draw(HOSTILE | st.text(max_size=4))] = header.pop(name)
    else:
        header[name] = header[name] | {change: value}
    policy = read(write(files, files[1], with_header(header, body)))
    assert policy is None or header.keys() == header_of(files[2])[0].keys()


@given(st.integers(0, 2**64 - 1), st.binary(max_size=40))
def test_a_header_of_any_length_is_refused(files, size, rest):
    assert read(write(files, files[1], struct.pack("<Q", size) + rest)) is None


@given(st.sampled_from(["F64", "BF16", "F16", "I32"]))
def test_weights_of_another_kind_are_refused(files, dtype):
    header, body = header_of(files[2])
    width = {"F64": 2, "BF16": 0.5, "F16": 0.5, "I32": 1}[dtype]
    for entry in header.values():
        entry["dtype"] = dtype
        entry["data_offsets"] = [int(place * width) for place in entry["data_offsets"]]
    body = (body * 2)[: int(len(body) * width)]
    assert read(write(files, files[1], with_header(header, body))) is None


def test_weights_that_are_no_numbers_are_refused(files):
    header, body = header_of(files[2])
    nan = struct.pack("<f", float("nan"))
    assert read(write(files, files[1], with_header(header, nan + body[4:]))) is None


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_a_folder_in_place_of_a_file_is_refused(tmp_path, name):
    save_policy(ReusePolicy(SPEC), tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=name):
        load_policy(tmp_path)


def test_an_endless_file_is_refused(files, monkeypatch):
    folder = write(files, files[1])
    monkeypatch.setattr("dqar.policy.serialization.MAX_BYTES", 10)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        load_policy(folder)
