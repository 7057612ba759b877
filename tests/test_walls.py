"""Walls of the house: the packages that each package may import, read from the source, and what an
import of the library brings along, read from a fresh interpreter."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter, defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = ("dqar", "pipeline", "jobs", "benchmarks", "tests")
MOST_FILES = 20
"""Files of a package, its ``__init__.py`` aside."""

MAY_IMPORT: dict[str, str] = {
    # The library: nouns and pure functions first, then what decides, what acts, and the seam.
    "dqar.records": "",
    "dqar.signals": "",
    "dqar.snr": "",
    "dqar.layer_schedule": "",
    "dqar.step_schedule": "dqar.records",
    "dqar.cache": "dqar.records dqar.signals",
    "dqar.config": "dqar.cache dqar.layer_schedule dqar.records",
    "dqar.validation": "",
    "dqar.config_file": "dqar.config dqar.validation",
    "dqar.policy": "dqar.records dqar.step_schedule",
    "dqar.gates": "dqar.config dqar.layer_schedule dqar.policy dqar.records",
    "dqar.control": "dqar.cache dqar.config dqar.gates dqar.policy dqar.records dqar.signals "
    "dqar.snr",
    "dqar.schedules": "dqar.cache dqar.config dqar.control dqar.gates dqar.records dqar.snr",
    "dqar.integration": "dqar.cache dqar.config dqar.control dqar.policy dqar.records "
    "dqar.schedules dqar.signals dqar.snr",
    # The plant: what every stage stands on, then the stages, which never import each other.
    "pipeline.errors": "",
    "pipeline.markdown": "",
    "pipeline.progress": "",
    "pipeline.statistics": "",
    "pipeline.flags": "pipeline.errors",
    "pipeline.tracking_flags": "",
    "pipeline.cli": "pipeline.errors pipeline.flags",
    "pipeline.storage": "pipeline.errors",
    "pipeline.tracking": "pipeline.errors pipeline.storage",
    "pipeline.models": "dqar pipeline.errors",
    "pipeline.cluster": "pipeline.errors pipeline.models pipeline.storage",
    "pipeline.exploration": "dqar pipeline.errors pipeline.models pipeline.storage",
    "pipeline.traces": "dqar pipeline.errors pipeline.exploration pipeline.models pipeline.storage",
    "pipeline.methods": "dqar pipeline.errors pipeline.models",
    "pipeline.collect": "dqar pipeline.cluster pipeline.errors pipeline.exploration "
    "pipeline.models pipeline.progress pipeline.storage pipeline.traces pipeline.tracking "
    "pipeline.tracking_flags",
    "pipeline.train": "dqar pipeline.errors pipeline.exploration pipeline.progress "
    "pipeline.storage pipeline.traces pipeline.tracking pipeline.tracking_flags",
    "pipeline.evaluate": "dqar pipeline.cluster pipeline.errors pipeline.markdown "
    "pipeline.methods pipeline.models pipeline.progress pipeline.statistics pipeline.storage "
    "pipeline.tracking pipeline.tracking_flags",
    "pipeline.sample": "dqar pipeline.cluster pipeline.errors pipeline.models pipeline.progress "
    "pipeline.tracking pipeline.tracking_flags",
    "pipeline.doctor": "pipeline.cluster pipeline.errors pipeline.models pipeline.storage "
    "pipeline.tracking",
    "pipeline.demo": "pipeline.errors",
}
"""Packages, and files that lie in no package, with the packages that each may import. ``dqar``
stands for the library as a whole."""

ROOMS: dict[str, set[str]] = {
    "ray": {"pipeline/cluster/actor_pool.py", "pipeline/cluster/ray_cluster.py"},
    "mlflow": {"pipeline/tracking.py"},
    "pyarrow": {"pipeline/traces/tables.py"},
    "obstore": {"pipeline/storage/object_store.py"},
    "tyro": {"pipeline/cli.py"},
    "tabulate": {"pipeline/markdown.py"},
    "diffusers": {
        "pipeline/models/loading.py",
        "pipeline/models/digits_pretrain.py",
        "pipeline/evaluate/sweeps/dummy_dit.py",
    },
    "sklearn": {
        "pipeline/methods/learned_gate.py",
        "pipeline/models/digits_data.py",
        "pipeline/train/validation.py",
    },
}
"""Files of the plant that import each heavy library."""

ONE_IMPORTER: dict[str, str] = {
    "entered by its job alone": "pipeline.collect.run pipeline.collect.unit_size "
    "pipeline.demo.run pipeline.doctor.run pipeline.evaluate.run pipeline.evaluate.sweeps.run "
    "pipeline.models.digits_pretrain pipeline.sample.flags pipeline.sample.run "
    "pipeline.train.run pipeline.collect.flags",
    "one step of a stage, as every stage has it": "pipeline.evaluate.driver "
    "pipeline.evaluate.sweeps.driver pipeline.evaluate.sweeps.report pipeline.evaluate.session",
    "a method, which the registry alone names": "pipeline.methods.baseline "
    "pipeline.methods.fewer_steps pipeline.methods.interval pipeline.methods.learned_schedule "
    "pipeline.methods.learning_to_cache pipeline.methods.smoothcache",
    "a subject apart from its importer's": "dqar.cache.salience_balancing dqar.control.manual "
    "dqar.integration.block_site dqar.integration.compiled.step_variants "
    "dqar.integration.custom_op dqar.integration.salience_calibration dqar.validation "
    "pipeline.collect.columns "
    "pipeline.demo.local_servers pipeline.evaluate.flops pipeline.evaluate.sweeps.dummy_dit "
    "pipeline.flags.names pipeline.methods.defaults "
    "pipeline.methods.schedule_selection pipeline.methods.site_mixing "
    "pipeline.methods.stock_runs pipeline.storage.range_reader pipeline.traces.compaction "
    "pipeline.traces.process_id pipeline.train.alternative_schedules pipeline.train.fits "
    "pipeline.train.local_error_model pipeline.train.reused_gate_writer",
    "a library that may be missing": "dqar.cache.triton_kernels",
}
"""Modules of the library and the plant that one other module imports, by the reason for it."""


def sources(tree: str) -> list[Path]:
    return sorted((ROOT / tree).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """``dqar.cache`` of ``dqar.cache.history``; a file that lies in no package is its own."""
    return ".".join(module.split(".")[:2])


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
    """Those of ``names`` that a file imports, sub-modules included."""
    imports = imports_of(path)
    return [name for name in names if any(f"{found}.".startswith(f"{name}.") for found in imports)]


def graph_of(tree: str) -> dict[str, set[str]]:
    """Modules of a tree with the modules that each imports."""
    modules = {name_of(path): path for path in sources(tree)}
    return {name: (imports_of(path) & modules.keys()) - {name} for name, path in modules.items()}


def packages_of(tree: str) -> dict[str, set[str]]:
    """Packages of a tree with the packages, of both trees, that each imports. The tree's own
    ``__init__.py`` hands out what lies below, and is left out."""
    known = {name_of(path) for root in ("dqar", "pipeline") for path in sources(root)}
    found: dict[str, set[str]] = defaultdict(set)
    for path in sources(tree):
        if (module := name_of(path)) != tree:
            mine = package_of(module)
            found[mine] |= {package_of(one) for one in imports_of(path) & known} - {mine, tree}
    return found


@pytest.mark.parametrize("tree", ["dqar", "pipeline"])
def test_packages_import_what_the_table_allows(tree):
    found = packages_of(tree)
    assert found.keys() - MAY_IMPORT.keys() == set()
    for package, imports in found.items():
        allowed = set(MAY_IMPORT[package].split())
        whole = {one for one in imports if "dqar" in allowed and one.split(".")[0] == "dqar"}
        assert imports - allowed - whole == set(), package


def test_the_table_names_no_package_that_is_gone():
    gone = MAY_IMPORT.keys() - packages_of("dqar").keys() - packages_of("pipeline").keys()
    assert gone == set()


def test_the_table_allows_nothing_that_is_not_used():
    found = packages_of("dqar") | packages_of("pipeline")
    for package, allowed in MAY_IMPORT.items():
        roots = {one.split(".")[0] for one in found[package]}
        unused = {one for one in allowed.split() if one not in found[package] | roots}
        assert unused == set(), package


def test_the_table_has_no_circle():
    graph = {package: set(allowed.split()) for package, allowed in MAY_IMPORT.items()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("tree", ["dqar", "pipeline", "benchmarks"])
def test_modules_have_no_circle(tree):
    graph = graph_of(tree)
    assert set(TopologicalSorter(graph).static_order()) == graph.keys()


def test_modules_with_one_importer_have_their_reason():
    graphs = [graph_of(tree) for tree in ("dqar", "pipeline")]
    users: dict[str, set[str]] = defaultdict(set)
    for tree in ("dqar", "pipeline", "jobs", "benchmarks"):
        for path in sources(tree):
            for module in imports_of(path):
                users[module].add(name_of(path))
    modules = {one for graph in graphs for one in graph}
    packages = {name_of(path.parent / "__init__.py") for path in sources("dqar")}
    packages |= {name_of(path.parent / "__init__.py") for path in sources("pipeline")}
    lone = {one for one in modules - packages if len(users[one] - {one}) == 1}
    assert lone == {one for names in ONE_IMPORTER.values() for one in names.split()}


@pytest.mark.parametrize("tree", ["dqar", "pipeline", "benchmarks", "jobs"])
def test_packages_are_small(tree):
    files = Counter(path.parent for path in sources(tree) if path.stem != "__init__")
    assert {str(folder): count for folder, count in files.items() if count > MOST_FILES} == {}


@pytest.mark.parametrize("path", sources("dqar"), ids=name_of)
def test_library_imports_no_plant(path):
    heavy = {*ROOMS} - ({"diffusers"} if "integration" in path.parts else set())
    assert reaches(path, "pipeline", "jobs", "benchmarks", "tests", *heavy) == []


@pytest.mark.parametrize("path", sources("pipeline"), ids=name_of)
def test_plant_imports_no_jobs(path):
    assert reaches(path, "jobs", "benchmarks", "tests") == []


@pytest.mark.parametrize("library", ROOMS)
def test_heavy_libraries_have_their_rooms(library):
    users = {path for path in sources("pipeline") if reaches(path, library)}
    assert {path.relative_to(ROOT).as_posix() for path in users} <= ROOMS[library]
    assert [path for path in sources("jobs") if reaches(path, library)] == []


@pytest.mark.parametrize("tree", TREES)
def test_no_room_for_odds_and_ends(tree):
    stems = {path.stem for path in sources(tree)}
    assert stems.isdisjoint({"utils", "util", "helpers", "helper", "common"})
    assert not [stem for stem in stems if "manager" in stem]


@pytest.mark.parametrize("tree", ["dqar", "pipeline", "jobs"])
def test_no_class_is_a_manager(tree):
    names = [
        node.name
        for path in sources(tree)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert not [name for name in names if "manager" in name.lower()]


@pytest.mark.parametrize("tree", ["dqar", "pipeline"])
def test_every_package_says_what_it_is_for(tree):
    packages = [path for path in sources(tree) if path.stem == "__init__"]
    assert [path for path in packages if not ast.get_docstring(ast.parse(path.read_text()))] == []


@pytest.mark.parametrize(
    ("module", "users"),
    [
        ("dqar.cache.cache", {"controller", "site_execution", "history"}),
        ("dqar.cache.history", {"controller", "site_execution", "manual"}),
        ("dqar.control.site_execution", {"controller", "manual"}),
    ],
)
def test_only_the_controller_opens_the_cache(module, users):
    found = {name for name, imports in graph_of("dqar").items() if module in imports}
    assert {name.rpartition(".")[2] for name in found} == users


def test_policies_are_read_at_the_edge():
    """Nothing that decides or plans opens a file."""
    graph = graph_of("dqar")
    assert {name for name in graph if "dqar.policy.serialization" in graph[name]} <= {"dqar"}


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
    modules, heavy = [name_of(path) for path in sources("dqar")], tuple(ROOMS)
    code = (
        "import importlib, sys, logging\n"
        "import dqar\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
        "print(logging.getLogger().handlers)\n"
    )
    assert run_python(code, tmp_path).splitlines() == ["[]", "[]", "[]"]
    assert list(tmp_path.rglob("*")) == []
