"""Checks of the doctor on made-up facts: findings, and the fix of each failure."""

from dataclasses import replace

import pytest

from pipeline.doctor.checks import (
    LEAST_DISK_GIB,
    LEAST_MEMORY_GIB,
    check_accelerator,
    check_auth,
    check_libraries,
    check_model,
    check_python,
    check_room,
    check_storage,
    check_tracking,
    read_pins,
)
from pipeline.doctor.host_info import HostInfo, read_host_info
from pipeline.doctor.run import pins_of

PYPROJECT = """
[project]
dependencies = ["torch>=2.6", "ray[default]>=2.50", "scikit_learn>=1.4", "unpinned>=1"]
"""
CONSTRAINTS = "ray==2.60.0\nscikit-learn==1.9.1\ntorch==2.13.0\n"
PINS = read_pins(PYPROJECT, CONSTRAINTS)
LIBRARIES = {"torch": "2.13.0+cpu", "ray": "2.60.0", "scikit-learn": "1.9.1", "unpinned": "7"}
WORKER = HostInfo(
    host="node-1",
    python="3.11.9",
    libraries=dict(LIBRARIES),
    auth_mode="token",
    gpus=("NVIDIA A100-SXM4-40GB",),
    free_disk_gib=200.0,
    free_memory_gib=64.0,
)
NODE = {
    "Resources": {"CPU": 96.0, "GPU": 8.0, "accelerator_type:A100": 1.0},
    "Labels": {"ray.io/accelerator-type": "A100"},
}


def test_pins_are_read_by_their_normal_names():
    assert PINS.needed == ("torch", "ray", "scikit-learn", "unpinned")
    assert PINS.versions == {"ray": "2.60.0", "scikit-learn": "1.9.1", "torch": "2.13.0"}


def test_this_checkout_pins_all_that_it_needs_and_has_it_installed():
    pins = pins_of()
    assert set(pins.needed) <= set(pins.versions)
    finding = check_libraries("driver", read_host_info(pins.needed), pins)
    assert finding.is_ok, finding.said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ray": "2.59.1"}, "ray 2.59.1, not 2.60.0"),
        ({"ray": None}, "ray is missing"),
        ({"unpinned": None}, "unpinned is missing"),
        ({"torch": "2.13.0.dev1"}, "torch 2.13.0.dev1, not 2.13.0"),
    ],
)
def test_another_version_or_none_is_named_with_its_fix(changed, said):
    finding = check_libraries("worker", replace(WORKER, libraries=LIBRARIES | changed), PINS)
    assert not finding.is_ok
    assert said in finding.said
    assert "pip install -c constraints.txt" in finding.said


def test_local_builds_and_unpinned_versions_are_free():
    assert check_libraries("worker", WORKER, PINS).is_ok


@pytest.mark.parametrize(
    ("here", "there", "is_ok"),
    [
        ("3.11.9", "3.11.4", True),
        ("3.12.1", "3.12.1", True),
        ("3.11.9", "3.12.1", False),
        ("3.10.9", "3.10.9", False),
    ],
)
def test_python_agrees_in_its_minor_version(here, there, is_ok):
    finding = check_python(replace(WORKER, python=here), replace(WORKER, python=there))
    assert finding.is_ok is is_ok
    assert ("one image" in finding.said) is not is_ok


@pytest.mark.parametrize(
    ("mode", "is_private", "is_ok"),
    [
        ("token", False, True),
        ("token", True, True),
        ("disabled", True, True),
        (None, True, True),
        ("disabled", False, False),
        (None, False, False),
    ],
)
def test_a_shared_cluster_must_ask_for_a_token(mode, is_private, is_ok):
    finding = check_auth(mode, is_private=is_private)
    assert finding.is_ok is is_ok
    assert ("Set RAY_AUTH_MODE=token" in finding.said) is not is_ok


def test_storage_is_whole_only_if_both_sides_see_it():
    assert check_storage("s3://b/x", wrote=None, is_seen=True).is_ok
    apart = check_storage("/data", wrote=None, is_seen=False)
    assert not apart.is_ok
    assert "all nodes mount" in apart.said
    denied = check_storage("s3://b/x", wrote="AccessDenied", is_seen=False)
    assert not denied.is_ok
    assert "AccessDenied" in denied.said
    assert "IamInstanceProfile" in denied.said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("failed with error code 403 != 200. Invalid Host header", "--allowed-hosts 'head,head:*,"),
        ("API request failed with error code 401", "MLFLOW_TRACKING_USERNAME"),
        ("Connection refused", "Start mlflow server"),
        ("port=4010, port=14030: Connection refused", "Start mlflow server"),
    ],
)
def test_what_mlflow_says_is_explained(error, said):
    finding = check_tracking("http://head:5000", error)
    assert not finding.is_ok
    assert said in finding.said
    assert check_tracking("http://head:5000", None).is_ok


@pytest.mark.parametrize("error", [None, "http://me:secret@head:5000 refused"])
def test_a_password_is_not_shown(error):
    said = str(check_tracking("http://me:secret@head:5000/x", error))
    assert "//...@head:5000" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("wanted", "nodes", "worker", "said"),
    [
        ("A100", [], None, 'Declare resources GPU and "accelerator_type:A100"'),
        ("A100", [NODE], replace(WORKER, gpus=()), "torch finds no GPU"),
        ("A100", [NODE], replace(WORKER, gpus=("Tesla T4",)), "Tesla T4"),
        ("A100-80G", [NODE], WORKER, "A100-SXM4-40GB"),
        ("L4", [NODE], replace(WORKER, gpus=("NVIDIA L40S",)), "L40S"),
    ],
)
def test_an_accelerator_that_is_not_one_is_found(wanted, nodes, worker, said):
    finding = check_accelerator(wanted, nodes, worker)
    assert not finding.is_ok
    assert said in finding.said


@pytest.mark.parametrize("labels", [NODE["Labels"], {}, {"ray.io/accelerator-type": "A100-40G"}])
@pytest.mark.parametrize("wanted", ["A100", "A100-40G"])
def test_an_accelerator_that_a_worker_got_is_named(wanted, labels):
    node = NODE | {"Labels": labels}
    finding = check_accelerator(wanted, [node, node], WORKER)
    assert finding.is_ok
    assert "A100-SXM4-40GB" in finding.said
    assert "16 GPUs on 2 nodes" in finding.said


def test_without_a_type_any_machine_will_do():
    assert check_accelerator(None, [{"Resources": {"CPU": 2.0}, "Labels": {}}], None).is_ok


def test_room_has_floors():
    assert all(finding.is_ok for finding in check_room(WORKER))
    tight = replace(
        WORKER, free_disk_gib=LEAST_DISK_GIB - 0.1, free_memory_gib=LEAST_MEMORY_GIB - 0.1
    )
    disk, memory = check_room(tight)
    assert not disk.is_ok
    assert not memory.is_ok
    assert "larger disk" in disk.said


def test_driver_and_worker_must_find_the_same_weights():
    assert check_model("digits", "abc", "abc").is_ok
    assert "abc on the driver, def on a worker" in check_model("digits", "abc", "def").said


def test_a_finding_is_one_line():
    said = str(check_model("digits", "abc", "two\nlines"))
    assert said.startswith("FAIL  model")
    assert "\n" not in said
