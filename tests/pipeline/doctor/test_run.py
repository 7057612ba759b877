"""Checks of the doctor on a real Ray that claims to have an A100."""

import os

import pytest
import ray

from pipeline.cluster.ray_cluster import ask_worker, leave_ray, living_nodes
from pipeline.doctor.config import DoctorConfig
from pipeline.doctor.host_info import find_mark, leave_mark, read_host_info, remove_mark
from pipeline.doctor.run import examine
from pipeline.doctor.services import Services
from pipeline.errors import InputError

CPU = {"num_cpus": 1}


@pytest.fixture(scope="module")
def pretended():
    """A local Ray with two CPUs and one GPU that does not exist."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=1,
            resources={"accelerator_type:A100": 1},
            labels={"ray.io/accelerator-type": "A100"},
            include_dashboard=False,
            log_to_driver=False,
        )
        yield
        leave_ray()


@pytest.fixture
def check_all(pretended, monkeypatch):
    """Run all checks; return the findings by name. The Ray of this module keeps running."""
    monkeypatch.setattr("pipeline.doctor.run.leave_ray", lambda: None)

    def run(**fields):
        return {finding.name: finding for finding in examine(DoctorConfig(**fields))}

    return run


def test_a_question_is_answered_by_another_process(pretended):
    there = ask_worker(lambda: os.getpid(), options=CPU, timeout_s=60.0)
    assert there != os.getpid()


def test_a_question_that_no_node_can_take_ends(pretended):
    with pytest.raises(TimeoutError, match=r"accelerator_type.*H100"):
        ask_worker(lambda: os.getpid(), options=CPU | {"accelerator_type": "H100"}, timeout_s=2.0)
    assert ask_worker(lambda: os.getpid(), options=CPU, timeout_s=60.0)


def test_nodes_carry_resources_and_labels(pretended):
    (node,) = living_nodes()
    assert node["Resources"]["GPU"] == 1
    assert node["Labels"]["ray.io/accelerator-type"] == "A100"


@pytest.mark.slow
def test_a_sound_machine_has_nothing_but_sound_findings(check_all, tmp_path):
    findings = check_all(
        out=str(tmp_path / "traces"),
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        model="digits",
    )
    names = {
        *("driver versions", "ray", "worker versions", "python", "auth", "disk", "memory"),
        *("accelerator", "storage", "mlflow", "model"),
    }
    assert set(findings) == names
    bad = {name: finding.said for name, finding in findings.items() if not finding.is_ok}
    # The test cannot choose how much disk and memory is free.
    assert set(bad) <= {"disk", "memory"}, bad
    assert list((tmp_path / "traces").iterdir()) == []


def test_a_gpu_that_torch_does_not_find_is_a_finding(check_all):
    finding = check_all(accelerator_type="A100")["accelerator"]
    assert not finding.is_ok
    assert "torch finds no GPU" in finding.said


def test_an_accelerator_that_never_comes_ends_the_checks(check_all):
    findings = check_all(accelerator_type="H100", timeout_s=2.0)
    assert list(findings) == ["driver versions", "ray", "accelerator"]
    assert '"accelerator_type:H100"' in findings["accelerator"].said


def test_a_worker_that_fails_is_a_finding_in_one_line(check_all, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Traceback:\n  many lines\nModuleNotFoundError: No module named 'dqar'")

    monkeypatch.setattr("pipeline.doctor.run.ask_worker", fail)
    finding = check_all()["worker"]
    assert not finding.is_ok
    assert finding.said.startswith("ModuleNotFoundError: No module named 'dqar'.")


def test_storage_and_mlflow_that_do_not_answer_are_findings(check_all, tmp_path):
    (tmp_path / "file").write_text("in the way")
    findings = check_all(out=str(tmp_path / "file" / "traces"), tracking_uri="http://127.0.0.1:1")
    assert not findings["storage"].is_ok
    # The driver could not reach them, so that no worker is asked.
    assert "this machine cannot write" in findings["storage"].said
    assert not findings["mlflow"].is_ok
    assert "the call of this machine" in findings["mlflow"].said
    assert "Start mlflow server" in findings["mlflow"].said


def test_a_service_that_workers_alone_cannot_reach_is_a_finding(tmp_path):
    with Services(DoctorConfig(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")) as services:
        (there,) = services.seen_from(lambda *_: "Connection refused")
        (here,) = services.seen_from_here()
    assert here.is_ok
    assert "did not answer the call of a worker: Connection refused" in there.said


def test_a_model_that_the_driver_cannot_find_is_bad_input(check_all):
    with pytest.raises(InputError, match="--model must be"):
        check_all(model="./nowhere")


def test_a_mark_is_left_found_and_removed(tmp_path):
    assert leave_mark(str(tmp_path), "a") is None
    assert find_mark(str(tmp_path), "a")
    assert not find_mark(str(tmp_path), "b")
    assert remove_mark(str(tmp_path), "a") is None
    assert not find_mark(str(tmp_path), "a")
    assert remove_mark(str(tmp_path), "a") is None


def test_facts_about_this_machine_are_plausible():
    found = read_host_info(["ray", "no-such-library"])
    assert found.libraries["ray"] == ray.__version__
    assert found.libraries["no-such-library"] is None
    assert 0 < found.free_memory_gib < 10_000
    assert found.free_disk_gib > 0


@pytest.mark.parametrize("text", ["", "MemTotal: 5 kB\n", "MemAvailable: many kB\n"])
def test_a_meminfo_without_the_available_memory_gives_all_of_it(monkeypatch, tmp_path, text):
    (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr("pipeline.doctor.host_info.MEMINFO", tmp_path / "meminfo")
    assert read_host_info(()).free_memory_gib > 0.1


def test_a_wait_must_be_positive():
    with pytest.raises(ValueError, match="--timeout-s must be above 0"):
        DoctorConfig(timeout_s=0.0)
