"""`make docs`: the site has every page and option, and works without a network, search included."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import chromium, open_page
from tests.commands import ROOT, environment
from tests.docs.pages import PAGES
from zerokit.cli import COMMANDS
from zerokit.cli.help import GROUPS, OVERLAYS
from zerokit.config.paths import choices


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site as `make docs` builds it; what is wrong in it (links, names of the API) fails."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "-q", "--site-dir", str(folder)]
    result = subprocess.run(
        words, cwd=ROOT, env=environment() | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_every_page_is_in_it(site):
    pages = [name.removeprefix("docs/").replace(".md", ".html") for name in PAGES if name.startswith("docs/")]
    index = (site / "index.html").read_text(encoding="utf-8")
    assert [page for page in pages if not (site / page).exists() or f'href="{page}"' not in index] == []


def test_references_are_generated(site):
    options = (site / "reference" / "configuration.html").read_text(encoding="utf-8")
    found = {f"{group}={name}" for group in GROUPS if group not in OVERLAYS for name in choices(group)}
    assert sorted(choice for choice in found if f">{choice}<" not in options) == []
    assert all(f"<code>{option}</code>" in options for option in ("train.steps", "adapter.r", "state.best"))
    commands = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if name not in ("help", "train") and f'id="{name}"' not in commands] == []
    api = (site / "reference" / "api.html").read_text(encoding="utf-8")
    api = re.sub(r"<[^>]+>", "", api)
    assert [name for name in ("initialize", "register", "Callback", "load") if f"zerokit.{name}" not in api] == []
    assert "Add the gradients of one micro-batch" in api


def test_no_page_loads_anything_from_elsewhere(site):
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert re.findall(r"""<(?:script|img|link|iframe)[^>]*(?:src|href)="?https?://[^\s">]+""", text) == [], file


def test_search_works_from_the_file_system(site):
    with chromium() as browser:
        opened = open_page(browser, site / "guides" / "data.html")
        opened.page.fill("input[name=query]", "master weights")
        opened.page.wait_for_selector(".md-search-result__item", timeout=30_000)
        assert "matching documents" in opened.page.inner_text(".md-search-result__meta")
        assert (opened.said, opened.loaded) == ([], [])
