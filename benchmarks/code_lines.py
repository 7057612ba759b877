"""Code lines of the jobs, the pipeline and the library at a commit (docs/LOG.md, 2026-11-30).

    python -m benchmarks.code_lines HEAD

A code line holds a token that is no comment and belongs to no docstring. The second number leaves
out lines that hold nothing but a part of a text, such as the continuation of a message.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tokenize
from collections import defaultdict

TREES = ("jobs", "pipeline", "dqar")
LAYOUT = (
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
)


def count(source: str) -> tuple[int, int]:
    """Return the code lines of a file, and those that hold more than a part of a text."""
    is_code: dict[int, bool] = defaultdict(bool)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            for line in range(token.start[0], token.end[0] + 1):
                is_code[line] |= token.type != tokenize.STRING and token.string not in "(),"
    for line in _docstring_lines(source):
        is_code.pop(line, None)
    return len(is_code), sum(is_code.values())


def _docstring_lines(source: str) -> set[int]:
    """Return the lines of strings that are statements."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            lines |= set(range(value.lineno, (value.end_lineno or value.lineno) + 1))
    return lines


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the code lines of a commit.")
    parser.add_argument("commit", help="commit to count, such as HEAD")
    commit = parser.parse_args().commit
    for tree in TREES:
        names = _git("ls-tree", "-r", "--name-only", commit, f"{tree}/").split()
        counts = [count(_git("show", f"{commit}:{name}")) for name in names if name[-3:] == ".py"]
        print(tree, *map(sum, zip(*counts, strict=True)))


if __name__ == "__main__":
    main()
