"""Examples run as a user starts them, and import nothing but torch and the library."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

LOOP = Path(__file__).parents[1] / "examples" / "minimal_loop.py"


def test_the_minimal_loop_reuses_and_stays_near_never_reusing():
    shown = subprocess.run([sys.executable, LOOP], capture_output=True, text=True, check=True)
    found = re.fullmatch(
        r"(\d+) of 72 gates reused \(.*\)\.\n"
        r"relative error against never reusing: (0\.\d+)\n",
        shown.stdout,
    )
    assert found is not None, shown.stdout
    assert 0 < int(found[1]) < 72
    assert 0 < float(found[2]) < 0.2


def test_the_minimal_loop_imports_torch_and_the_library_alone():
    nodes = ast.walk(ast.parse(LOOP.read_text()))
    modules = {
        name.partition(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else _names(node))
    }
    assert modules == {"torch", "dqar"}


def _names(node: ast.Import) -> list[str]:
    return [alias.name for alias in node.names]


def test_the_minimal_loop_is_minimal():
    assert len(LOOP.read_text().splitlines()) < 60
