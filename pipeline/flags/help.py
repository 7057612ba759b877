"""Help of command-line flags: the docstrings under the fields of a dataclass, and paragraphs."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import MISSING, Field
from itertools import pairwise
from typing import Any, get_origin

WIDTH = 80
"""Columns of a help page."""


def field_texts(kind: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass and of its bases, in one line each."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for field, text in pairwise(getattr(tree, "body", [])):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(docstring))),
                ):
                    found[name] = " ".join(docstring.split())
    return found


def description_of(kind: type) -> str:
    """The docstring of a dataclass, each of its paragraphs in one line."""
    paragraphs = (inspect.getdoc(kind) or "").split("\n\n")
    return "\n\n".join(" ".join(one.split()) for one in paragraphs)


def is_required(field: Field[Any]) -> bool:
    """True for a field without a default."""
    return field.default is MISSING and field.default_factory is MISSING


def hint_of(field: Field[Any], annotation: Any) -> str | None:
    """The words in parentheses after a flag's text; None for the usual ``(default: X)``.

    None, False and an empty tuple have no words: the text says what stands for them.
    """
    if get_origin(annotation) is list:
        return "(required, repeatable)" if is_required(field) else "(repeatable)"
    return "" if field.default is None or field.default is False or field.default == () else None


def wrapped(text: str) -> str:
    """A help page with its long lines of prose wrapped, and without spaces at line ends."""
    lines = (line.rstrip() for line in text.strip().splitlines())
    page = "\n".join(line if line[:1] == " " else textwrap.fill(line, WIDTH) for line in lines)
    # tyro leaves an empty line after a text that fills its last line, if no hint follows.
    return re.sub(r"\n\n(?=  -|\n)", "\n", page)
