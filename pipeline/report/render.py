"""HTML of a page, by the template; every text is escaped but the figures' own SVG."""

from __future__ import annotations

from pathlib import Path

from pipeline.report.decision_text import evidence, sentence, shown_target
from pipeline.report.figures import shown_error, shown_interval, shown_ratio
from pipeline.report.page import Page
from pipeline.report.sampling_command import over_lines

TEMPLATES = Path(__file__).parent / "templates"
SHOWN = {
    "evidence": evidence,
    "over_lines": over_lines,
    "sentence": sentence,
    "shown_error": shown_error,
    "shown_interval": shown_interval,
    "shown_ratio": shown_ratio,
    "shown_target": shown_target,
}
"""Functions that the template calls."""


def render(page: Page) -> str:
    """Return the page as HTML that needs no network and no script."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(page=page, **SHOWN)
