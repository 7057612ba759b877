"""cluster.yaml, offline: Ray's own schema, and what the schema does not catch."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def commands_of(cluster):
    return [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]


def test_ray_accepts_it(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_rays_check_does_find_faults(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster["head_node_type"] = "nobody"
    with pytest.raises(Exception, match="head_node_type"):
        validate_config(prepare_config(cluster))


def test_there_is_room_for_the_least_workers(cluster):
    types = cluster["available_node_types"]
    least = sum(types[name].get("min_workers", 0) for name in types)
    assert cluster["max_workers"] >= least
    assert cluster["max_workers"] >= max(types[name]["max_workers"] for name in types)


def test_setup_installs_this_project_with_its_constraints(cluster):
    (command,) = cluster["setup_commands"]
    (target,) = cluster["file_mounts"]
    assert command.startswith(f"cd {target} && pip install")
    assert "-c constraints.txt" in command
    assert (ROOT / "constraints.txt").exists()


def test_the_image_holds_the_pinned_ray(cluster):
    pins = (ROOT / "constraints.txt").read_text().split()
    (version,) = [pin.partition("==")[2] for pin in pins if pin.startswith("ray==")]
    assert cluster["docker"]["image"].startswith(f"rayproject/ray:{version}-py311-")


def test_the_head_is_on_demand_and_runs_no_work(cluster):
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}


def test_workers_are_a100_spot_nodes(cluster):
    workers = cluster["available_node_types"]["a100"]
    assert workers["resources"] == {"CPU": 96, "GPU": 8, "accelerator_type:A100": 1}
    assert workers["labels"] == {"ray.io/accelerator-type": "A100"}
    assert workers["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_disks_hold_the_gpu_image(cluster):
    for kind in cluster["available_node_types"].values():
        (disk,) = kind["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= 200


def test_the_dashboard_is_not_open_to_the_network(cluster):
    (start,) = [command for command in commands_of(cluster) if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in start
