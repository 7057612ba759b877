"""cluster.yaml and its GCP twin, offline: Ray's own schema, and what the schema does not catch."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = ["cluster.yaml", "deploy/gcp.yaml"]
DISK_GB = 200
"""The GPU image, unpacked, fills a disk of half of it."""


@pytest.fixture(params=FILES)
def cluster(request):
    return yaml.safe_load((ROOT / request.param).read_text())


@pytest.fixture
def aws():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def gcp():
    return yaml.safe_load((ROOT / "deploy" / "gcp.yaml").read_text())


def check_with_ray(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def commands_of(cluster):
    return [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]


def head_of(cluster):
    return cluster["available_node_types"][cluster["head_node_type"]]


def workers_of(cluster):
    return cluster["available_node_types"]["a100"]


def pinned_ray():
    pins = (ROOT / "constraints.txt").read_text().split()
    (version,) = [pin.partition("==")[2] for pin in pins if pin.startswith("ray==")]
    return version


def test_ray_accepts_it(cluster):
    check_with_ray(cluster)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head_node_type": "nobody"}, "head_node_type"),
        ({"idle_minutes": 5}, "idle_minutes"),
        ({"provider": {"type": "attic"}}, "attic"),
    ],
)
def test_rays_check_does_find_faults(cluster, change, said):
    with pytest.raises(Exception, match=said):
        check_with_ray(cluster | change)


def test_ray_keeps_what_is_written_rather_than_its_defaults(cluster):
    """A key that Ray fills in is one that this file should have said."""
    from ray.autoscaler._private.util import prepare_config

    prepared = prepare_config(cluster)
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        assert prepared[key][-len(cluster[key]) :] == cluster[key]
    assert not [line for line in prepared["setup_commands"] if "nightly" in line or "dev0" in line]


def test_there_is_room_for_the_least_workers(cluster):
    types = cluster["available_node_types"]
    least = sum(types[name].get("min_workers", 0) for name in types)
    assert cluster["max_workers"] >= least
    assert cluster["max_workers"] >= max(types[name]["max_workers"] for name in types)


def test_setup_installs_this_project_with_its_constraints(cluster):
    (command,) = cluster["setup_commands"]
    (target,) = [there for there, here in cluster["file_mounts"].items() if here == "."]
    assert command.startswith(f"cd {target} && pip install")
    assert "-c constraints.txt" in command
    assert (ROOT / "constraints.txt").exists()


def test_the_image_holds_the_pinned_ray(cluster):
    assert cluster["docker"]["image"].startswith(f"rayproject/ray:{pinned_ray()}-py311-cu")
    assert cluster["docker"]["image"] in (ROOT / "deploy" / "Dockerfile").read_text()


def test_the_head_stays_and_runs_no_work(cluster):
    head = head_of(cluster)
    assert "InstanceMarketOptions" not in head["node_config"]
    assert "scheduling" not in head["node_config"]
    assert head["labels"] == {"ray.io/market-type": "on-demand"}
    assert head["resources"] == {"CPU": 0}


def test_whoever_asks_for_an_a100_is_understood(cluster):
    """By either name and by label: an unknown one would wait for ever."""
    from ray.util.accelerators import NVIDIA_A100

    workers = workers_of(cluster)
    for name in (NVIDIA_A100, "A100-40G"):
        assert workers["resources"][f"accelerator_type:{name}"] == 1
    assert workers["labels"]["ray.io/accelerator-type"] == NVIDIA_A100
    assert workers["labels"]["ray.io/market-type"] == "spot"
    assert workers["min_workers"] == 0


def test_aws_workers_are_spot_nodes_of_eight(aws):
    workers = workers_of(aws)
    assert workers["node_config"]["InstanceType"] == "p4d.24xlarge"
    assert (workers["resources"]["CPU"], workers["resources"]["GPU"]) == (96, 8)
    assert workers["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_gcp_workers_are_preemptible_and_say_what_they_have(gcp):
    workers = workers_of(gcp)
    assert workers["node_config"]["machineType"] == "a2-highgpu-1g"
    assert (workers["resources"]["CPU"], workers["resources"]["GPU"]) == (12, 1)
    scheduling = {
        key: value for entry in workers["node_config"]["scheduling"] for key, value in entry.items()
    }
    assert scheduling == {"preemptible": True, "onHostMaintenance": "TERMINATE"}


def test_workers_may_reach_the_bucket(aws, gcp):
    """Ray gives a profile or an account of its own to the head only."""
    profile = workers_of(aws)["node_config"]["IamInstanceProfile"]["Arn"]
    assert profile.endswith("instance-profile/dqar-worker")
    (account,) = workers_of(gcp)["node_config"]["serviceAccounts"]
    assert account["email"].startswith("dqar-worker@")
    assert account["scopes"] == ["https://www.googleapis.com/auth/cloud-platform"]


def test_the_bucket_is_looked_for_where_the_cluster_is(aws):
    assert f"--env AWS_REGION={aws['provider']['region']}" in aws["docker"]["run_options"]
    zones = aws["provider"]["availability_zone"].split(",")
    assert all(zone.startswith(aws["provider"]["region"]) for zone in zones)


def test_disks_hold_the_gpu_image(aws, gcp):
    for kind in aws["available_node_types"].values():
        (disk,) = kind["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= DISK_GB
    for kind in gcp["available_node_types"].values():
        (disk,) = kind["node_config"]["disks"]
        assert disk["initializeParams"]["diskSizeGb"] >= DISK_GB


def test_the_dashboard_is_not_open_to_the_network(cluster):
    (start,) = [command for command in commands_of(cluster) if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in start


def test_all_processes_ask_for_a_token_that_they_find(cluster):
    """In the container's own environment, so that head, workers and jobs agree."""
    options = cluster["docker"]["run_options"]
    assert "--env RAY_AUTH_MODE=token" in options
    (place,) = [there for there, here in cluster["file_mounts"].items() if "auth_token" in here]
    assert f"--env RAY_AUTH_TOKEN_PATH={place}" in options


@pytest.mark.parametrize("name", [*FILES, "deploy/rayjob.yaml", "runtime_env.yaml"])
def test_no_secret_is_written_down(name):
    text = (ROOT / name).read_text()
    for word in ("AKIA", "aws_secret", "AWS_SECRET", "password", "PASSWORD", "RAY_AUTH_TOKEN:"):
        assert word not in text
    assert "0.0.0.0/0" not in text
