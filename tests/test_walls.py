"""Import rules: packages that each package may import, read from the source, and modules that an
import of the library loads, read from a fresh interpreter."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter, defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests import import_graph
from tests.import_graph import (
    ROOT,
    graph_of,
    imports_of,
    name_of,
    packages_of,
    reaches,
    sources,
)
from tests.walls_tables import MAY_IMPORT, ONE_IMPORTER, ROOMS

TREES = ("dqar", "pipeline", "jobs", "benchmarks", "tests")
MOST_FILES = 20
"""Largest number of files in a package, its ``__init__.py`` not counted."""


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
def test_library_imports_no_pipeline(path):
    heavy = {*ROOMS} - ({"diffusers"} if "integration" in path.parts else set())
    heavy |= {"huggingface_hub"} - ({"huggingface_hub"} if path.stem == "hub_files" else set())
    assert reaches(path, "pipeline", "jobs", "benchmarks", "tests", *heavy) == []


@pytest.mark.parametrize("path", sources("pipeline"), ids=name_of)
def test_pipeline_imports_no_jobs(path):
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
        (
            "dqar.cache.cache",
            {"controller", "step_control", "run_state", "site_execution", "history"},
        ),
        ("dqar.cache.history", {"run_state", "site_execution"}),
        ("dqar.control.site_execution", {"step_control", "open_step"}),
    ],
)
def test_only_the_controller_opens_the_cache(module, users):
    found = {name for name, imports in graph_of("dqar").items() if module in imports}
    assert {name.rpartition(".")[2] for name in found} == users


def test_policies_are_read_at_the_edge():
    """Only the root package, the reader of plans and that of shared folders import the reader of
    policies; no gate and no planner opens a file."""
    graph = graph_of("dqar")
    users = {name for name in graph if "dqar.policy.serialization" in graph[name]}
    readers = {"dqar.schedules.serialization", "dqar.sharing.pretrained"}
    assert users <= {"dqar", *readers}


def test_reader_of_imports_resolves_relative_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(import_graph, "ROOT", tmp_path)
    path = tmp_path / "tree" / "package" / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text("from ..other import name\nfrom . import sibling\nimport a.b\n")
    assert {"tree.other.name", "tree.package.sibling", "a.b"} <= imports_of(path)


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
    # The last two when the first file is read.
    heavy = (*ROOMS, "huggingface_hub", "pydantic", "yaml")
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
