"""The house's walls: who may import whom, read from the source and from a fresh interpreter."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dqar", "pipeline", "jobs", "benchmarks", "tests")
HEAVY = ("ray", "pyarrow", "mlflow", "diffusers", "sklearn")


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Full names that a file imports, wherever in the file, relative ones resolved."""
    package = name_of(path) if path.stem == "__init__" else name_of(path).rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def reaches(path: Path, *names: str) -> list[str]:
    """Which of ``names`` a file imports, sub-modules included."""
    imports = imports_of(path)
    return [name for name in names if any(f"{found}.".startswith(f"{name}.") for found in imports)]


def importers(package: str, name: str) -> set[str]:
    return {path.name for path in sources(package) if reaches(path, name)}


def dqar_graph() -> dict[str, set[str]]:
    modules = {name_of(path): path for path in sources("dqar")}
    return {name: (imports_of(path) & modules.keys()) - {name} for name, path in modules.items()}


def test_source_was_found():
    assert len(sources("dqar")) > 10
    assert len(sources("pipeline")) > 10


@pytest.mark.parametrize("path", sources("dqar"), ids=name_of)
def test_library_imports_no_plant(path):
    heavy = set(HEAVY) - ({"diffusers"} if path.parent.name == "integration" else set())
    assert reaches(path, "pipeline", "jobs", "benchmarks", "tests", *heavy) == []


@pytest.mark.parametrize("path", sources("pipeline"), ids=name_of)
def test_plant_imports_no_doors(path):
    assert reaches(path, "jobs", "benchmarks", "tests") == []


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("pyarrow", {"dataset.py"}),
        ("obstore", {"storage.py"}),
        ("mlflow", {"tracking.py"}),
        ("ray", {"fleet.py", "cluster.py"}),
        ("diffusers", {"models.py", "pretrain.py", "dummy.py"}),
    ],
)
def test_one_room_for_each_heavy_library(library, rooms):
    assert importers("pipeline", library) <= rooms
    assert importers("jobs", library) == set()


@pytest.mark.parametrize("stage", ["collect", "train", "evaluate"])
def test_stages_meet_through_files(stage):
    others = {"collect", "train", "evaluate"} - {stage}
    path = ROOT / "pipeline" / f"{stage}.py"
    assert reaches(path, *(f"pipeline.{other}" for other in others)) == []


@pytest.mark.parametrize(
    "kind",
    [
        *("methods", "threshold_points", "smooth_points", "greedy_points", "planned_points"),
        *("router_points", "curves", "router"),
    ],
)
def test_points_are_laid_out_without_workers(kind):
    path = ROOT / "pipeline" / f"{kind}.py"
    assert (
        reaches(
            path,
            "pipeline.cluster.actor_pool",
            "pipeline.evaluate.worker",
            "pipeline.models.loading",
        )
        == []
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_for_odds_and_ends(package):
    stems = {path.stem for path in sources(package)}
    assert stems.isdisjoint({"utils", "util", "helpers", "helper", "common"})
    assert not [stem for stem in stems if "manager" in stem]


@pytest.mark.parametrize("package", ["dqar", "pipeline", "jobs"])
def test_no_class_is_a_manager(package):
    names = [
        node.name
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert not [name for name in names if "manager" in name.lower()]


def test_library_has_no_import_cycle():
    order = list(TopologicalSorter(dqar_graph()).static_order())
    assert set(order) == dqar_graph().keys()


@pytest.mark.parametrize(
    "ground",
    ["records", "signals", "snr", "quantization", "balancing", "schedule", "policy_spec"],
)
def test_ground_floor_rests_on_records_alone(ground):
    assert dqar_graph()[f"dqar.{ground}"] <= {"dqar.records"}


def test_gates_touch_no_cache():
    assert dqar_graph()["dqar.gates.rules"].isdisjoint(
        {"dqar.cache.cache", "dqar.control.controller"}
    )


@pytest.mark.parametrize(
    ("room", "users"),
    [
        (
            "dqar.cache.cache",
            {"dqar.control.controller", "dqar.control.site_execution", "dqar.cache.history"},
        ),
        (
            "dqar.cache.history",
            {"dqar.control.controller", "dqar.control.site_execution", "dqar.control.manual"},
        ),
        ("dqar.control.site_execution", {"dqar.control.controller", "dqar.control.manual"}),
    ],
)
def test_only_the_controller_opens_the_cache(room, users):
    assert {name for name, found in dqar_graph().items() if room in found} == users


def test_policies_are_read_at_the_edge():
    """Nothing that decides or plans opens a file."""
    users = {name for name, found in dqar_graph().items() if "dqar.policy.serialization" in found}
    assert users <= {"dqar"}


def test_nothing_below_imports_the_integration():
    users = {name for name, found in dqar_graph().items() if any("integration" in f for f in found)}
    assert {name for name in users if "integration" not in name} <= {"dqar"}


def test_reader_of_imports_resolves_relative_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "house" / "room" / "door.py"
    path.parent.mkdir(parents=True)
    path.write_text("from ..cellar import wine\nfrom . import key\nimport a.b\n")
    assert {"house.cellar.wine", "house.room.key", "a.b"} <= imports_of(path)


def run_python(code: str, home: Path) -> str:
    environment = os.environ | {
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light_and_leaves_no_trace(tmp_path):
    modules = [name_of(path) for path in sources("dqar")]
    code = (
        "import importlib, sys, logging\n"
        "import dqar\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        "print(logging.getLogger().handlers)\n"
    )
    assert run_python(code, tmp_path).splitlines() == ["[]", "[]", "[]"]
    assert list(tmp_path.rglob("*")) == []
