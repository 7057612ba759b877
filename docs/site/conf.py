"""Sphinx configuration of the documentation site, which `make docs` builds into build/site.

The source folder is the repository's root, so that the site shows README.md and CONTRIBUTING.md
beside docs/ and each link works here as it does in the repository. Building and reading need no
network.
"""

import re
from pathlib import Path
from typing import Any

from sphinx.errors import SphinxError

project = "DQAR"
language = "en"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md"]
exclude_patterns = [".*", "runs", "build", "mlruns", "mlartifacts", "tests", "benchmarks"]
"""Folders that are not searched for pages; the first pattern is of hidden ones."""

myst_heading_anchors = 3
"""Depth of the headings that a link may name, by GitHub's own anchors."""

html_theme = "furo"
html_title = "DQAR"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_extra_path = ["index.html"]  # sends a reader of build/site to docs/index.html
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_show_search_summary = False  # a summary is fetched from the page, which file:// refuses
html_use_index = False
html_theme_options = {"top_of_page_buttons": []}

FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|(?:url\(|@import )\s*["']?(?:https?:)?//[^\s"')]+"""
)
"""Elements of pages and rules of style sheets that make a browser ask another host."""


def refuse_fetches(app: Any, exception: Exception | None) -> None:
    """Refuse a site that would load something from the network.

    Raises:
        SphinxError: naming the file and what it would load.
    """
    if exception is not None:
        return
    for path in sorted(Path(app.outdir).rglob("*")):
        if path.suffix not in (".html", ".css"):
            continue
        if found := FETCHED.search(path.read_text(encoding="utf-8")):
            raise SphinxError(
                f"{path} must load nothing from the network. Got {found[0]}. Store the file in "
                "docs/."
            )


def setup(app: Any) -> None:
    """Check the site when it is built."""
    app.connect("build-finished", refuse_fetches)
