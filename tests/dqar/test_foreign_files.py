"""Files of any kind and content are refused before they block, or before they are read whole."""

import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from dqar.config_file import load_config
from dqar.foreign_files import (
    StoredTensor,
    parse_json,
    read_json,
    read_tensors,
    read_text,
    require_file,
)
from dqar.schedules.serialization import load_plan


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "c": 2, "a": 3}}]'])
def test_a_repeated_key_is_refused(text):
    with pytest.raises(ValueError, match="the key 'a' more than once"):
        parse_json(text)


def test_other_json_is_read_as_json_does():
    text = '{"a": [1, {"b": null}], "c": -Infinity}'
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize("reader", [load_plan, load_config])
def test_a_pipe_and_a_large_file_are_refused_by_every_reader(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="a named pipe in place of the file pipe"):
        reader(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(ValueError, match=r"more than .* bytes"):
        reader(tmp_path / "large")


def test_a_plan_that_repeats_a_key_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text('{"schema_version": 1, "schema_version": 1}')
    with pytest.raises(ValueError, match="'schema_version' more than once"):
        load_plan(tmp_path / "plan.json")


def test_a_device_is_no_file(tmp_path):
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="a device in place"):
        read_text(tmp_path / "zero", max_bytes=10)
    with pytest.raises(ValueError, match="a folder in place of the file"):
        require_file(tmp_path)
    with pytest.raises(ValueError, match="must be a plan's JSON"):
        read_json(tmp_path / "none", what="a plan", fix="Fix it.", max_bytes=10)


def test_the_header_has_names_dtypes_and_shapes(tmp_path):
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.float16)}
    save_file(tensors, tmp_path / "x.safetensors")
    assert read_tensors(tmp_path / "x.safetensors") == {
        "a": StoredTensor(dtype="F32", shape=(2, 3)),
        "b": StoredTensor(dtype="F16", shape=()),
    }


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "only 0 bytes"),
        (struct.pack("<Q", 2**63), "a header of 9223372036854775808 bytes"),
        (struct.pack("<Q", 2) + b"{]", "is no safetensors file"),
        (struct.pack("<Q", 20) + b"{}", "is no safetensors file"),
    ],
)
def test_another_header_is_refused_in_one_line(tmp_path, data, line):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=line) as refused:
        read_tensors(tmp_path / "x.safetensors")
    assert "\n" not in str(refused.value)
