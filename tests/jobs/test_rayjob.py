"""deploy/rayjob.yaml, offline: structure, Ray's own reading of it, and the job's own parser."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.cli import parse_flags

ROOT = Path(__file__).parents[2]
SPEC = {
    "submissionMode",
    "entrypoint",
    "runtimeEnvYAML",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "activeDeadlineSeconds",
    "backoffLimit",
    "rayClusterSpec",
}
"""Fields of KubeRay's RayJobSpec that are used; a misspelt one is pruned without a word."""
CLUSTER = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
GROUP = {
    "groupName",
    "replicas",
    "minReplicas",
    "maxReplicas",
    "labels",
    "rayStartParams",
    "template",
}


@pytest.fixture
def job():
    return yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())


@pytest.fixture
def cluster(job):
    return job["spec"]["rayClusterSpec"]


@pytest.fixture
def workers(cluster):
    (group,) = cluster["workerGroupSpecs"]
    return group


def containers_of(cluster):
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"]["containers"][0] for group in groups]


def pinned_ray():
    pins = (ROOT / "constraints.txt").read_text().split()
    (version,) = [pin.partition("==")[2] for pin in pins if pin.startswith("ray==")]
    return version


def start_resources(group):
    """Custom resources as the shell that KubeRay writes would hand them to ``ray start``."""
    (flag,) = shlex.split(f"--resources={group['rayStartParams']['resources']}")
    return json.loads(flag.partition("=")[2])


def test_every_field_is_one_that_kuberay_has(job, cluster, workers):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) == SPEC
    assert set(cluster) == CLUSTER
    assert set(workers) == GROUP


def test_it_ends_by_itself(job):
    spec = job["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > 0


def test_images_and_ray_version_are_the_pinned_ray(cluster):
    assert cluster["rayVersion"] == pinned_ray()
    images = {container["image"] for container in containers_of(cluster)}
    (image,) = images
    tag = image.partition(":")[2]
    assert tag.startswith(f"{pinned_ray()}-py311-")
    # deploy/Dockerfile is what makes it.
    assert f"FROM rayproject/ray:{tag}\n" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_a_token_is_asked_for(cluster):
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_head_and_workers_look_for_the_bucket_in_one_place(cluster):
    found = [container["env"] for container in containers_of(cluster)]
    assert [entry["name"] for entry in found[0]] == ["AWS_REGION"]
    assert all(environment == found[0] for environment in found)


def test_gpus_of_the_pod_are_gpus_of_ray(workers):
    (container,) = workers["template"]["spec"]["containers"]
    resources, started = container["resources"], workers["rayStartParams"]
    assert resources["limits"] == resources["requests"]
    assert resources["limits"]["nvidia.com/gpu"] == started["num-gpus"] == "8"
    assert resources["limits"]["cpu"] == started["num-cpus"]
    assert workers["template"]["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_start_parameters_are_strings(cluster, workers):
    """Kubernetes refuses numbers there."""
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for container in containers_of(cluster):
        for quantities in container["resources"].values():
            assert all(isinstance(value, str) for value in quantities.values())


def test_rays_autoscaler_reads_groups_as_meant(job, cluster, workers):
    """By the very function that Ray's autoscaler uses in the head pod."""
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    document = {"metadata": {"name": "dqar", "namespace": "default"}, "spec": cluster}
    types = _derive_autoscaling_config_from_ray_cr(document)["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    found = types["a100"]
    assert found["resources"]["GPU"] == 8
    named = {name: 1 for name in ("accelerator_type:A100", "accelerator_type:A100-40G")}
    assert start_resources(workers) == named
    assert named.items() <= found["resources"].items()
    assert found["labels"]["ray.io/accelerator-type"] == "A100"
    assert (found["min_workers"], found["max_workers"]) == (0, 4)


def test_the_entrypoint_is_a_command_of_the_job(job, load_job):
    python, script, *flags = shlex.split(job["spec"]["entrypoint"])
    home = Path("/home/ray/dqar")
    assert python == "python"
    assert (ROOT / Path(script).relative_to(home)).exists()
    assert f"COPY --chown=ray:users . {home}" in (ROOT / "deploy" / "Dockerfile").read_text()
    found = parse_flags(load_job(Path(script).stem).FLAGS, name="job", args=flags)
    assert found.out == "s3://BUCKET/traces"
    assert found.tracking.tracking_uri.startswith("http://")
    assert found.cluster.accelerator_type == "A100"


def test_its_runtime_environment_is_that_of_other_jobs(job):
    shared = yaml.safe_load((ROOT / "runtime_env.yaml").read_text())
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"]) == shared
