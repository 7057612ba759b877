"""Imports of modules and packages, read from the source without running it."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]


def sources(tree: str) -> list[Path]:
    """Python files of a tree, sorted."""
    return sorted((ROOT / tree).rglob("*.py"))


def name_of(path: Path) -> str:
    """Full name of the module or package in a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """Package of a module; the name of the module itself if the module lies in no package."""
    return ".".join(module.split(".")[:2])


def imports_of(path: Path) -> set[str]:
    """Full names that a file imports anywhere, with relative imports resolved."""
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
    """Members of ``names`` that a file imports, as a whole or a sub-module."""
    imports = imports_of(path)
    return [name for name in names if any(f"{found}.".startswith(f"{name}.") for found in imports)]


def graph_of(tree: str) -> dict[str, set[str]]:
    """Modules of a tree with the modules of the tree that each imports."""
    modules = {name_of(path): path for path in sources(tree)}
    return {name: (imports_of(path) & modules.keys()) - {name} for name, path in modules.items()}


def packages_of(tree: str) -> dict[str, set[str]]:
    """Packages of a tree with the packages of ``dqar`` and ``pipeline`` that each imports.

    The ``__init__.py`` of the tree re-exports names of its packages and is left out.
    """
    known = {name_of(path) for root in ("dqar", "pipeline") for path in sources(root)}
    found: dict[str, set[str]] = defaultdict(set)
    for path in sources(tree):
        if (module := name_of(path)) != tree:
            mine = package_of(module)
            found[mine] |= {package_of(one) for one in imports_of(path) & known} - {mine, tree}
    return found
