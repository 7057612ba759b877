"""The documentation site in a real browser without a network, opened as files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from tests.docs.markdown_pages import PAGES, ROOT

pytestmark = pytest.mark.slow
WIDTHS = (1400, 390)
"""Widths in pixels of a desktop's window and of a phone's."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the site, built as `make docs` builds it."""
    pytest.importorskip("sphinx", reason="needs the extra docs (make docs)")
    folder = tmp_path_factory.mktemp("site")
    options = ["-q", "-W", "--keep-going", "-c", "docs/site", "-d", folder / "doctrees"]
    command = [sys.executable, "-m", "sphinx", *options, ".", folder / "html"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    return folder / "html"


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("needs Chromium (Debian's package chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page without a network, whose errors and requests to other hosts fail the test."""
    context = browser.new_context(offline=True, viewport={"width": WIDTHS[0], "height": 1000})
    page, complaints = context.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    yield page
    context.close()
    assert complaints == []


def test_every_page_opens_and_fits_its_width(site, page):
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1000})
        for name in PAGES:
            page.goto((site / name).with_suffix(".html").as_uri())
            assert page.locator("h1").first.is_visible(), name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            broken = "[...document.images].filter(image => !image.naturalWidth).length"
            assert page.evaluate(broken) == 0, name


def test_the_search_finds_an_answer(site, page):
    page.goto((site / "index.html").as_uri())
    page.wait_for_url("**/docs/index.html")
    page.locator("input[name=q]").fill("LoRA")
    page.locator("input[name=q]").press("Enter")
    page.locator("#search-results a", has_text="LoRA?").click()
    page.wait_for_url(re.compile(r"faq\.html.*#lora"))
