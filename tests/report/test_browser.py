"""The pages in a real browser: nothing sticks out on a phone, texts do not cover each other, dark and print differ."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from tests.report.sweep_folder import make
from zerokit.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars")
LOOK = """
const inside = document.querySelector("iframe").contentDocument;
const boxes = (query) => [...inside.querySelectorAll(query)].map((e) => e.getBoundingClientRect());
const cover = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
const texts = boxes(".number, .scatter .x span, .scatter .y span");
const front = inside.querySelector(".front");
const onto = front && front.getScreenCTM();
const steps = front ? [...Array(400).keys()].map((i) => front.getPointAtLength(front.getTotalLength() * i / 399)) : [];
const drawn = steps.map((p) => p.matrixTransform(onto));
const struck = boxes(".number").filter((box) => drawn.some((p) => p.x > box.left + box.width / 2 - 4
  && p.x < box.left + box.width / 2 + 4 && p.y > box.top + 2 && p.y < box.bottom - 2));
const view = inside.documentElement;
document.body.append(Object.assign(document.createElement("pre"), { id: "found", textContent: JSON.stringify({
  overflow: view.scrollWidth - view.clientWidth,
  wide: [...inside.querySelectorAll("main *")].filter((e) => !e.closest(".scroll") && !e.closest("svg")
    && e.getBoundingClientRect().right > view.clientWidth + 1).map((e) => e.className || e.tagName),
  covered: texts.some((a, i) => texts.some((b, j) => j > i && cover(a, b))),
  struck: struck.length,
  charts: boxes("figure").filter((box) => box.width > 100 && box.height > 60).length,
  silent: [...inside.querySelectorAll("figure.chart > script")].filter((data) => {
    const plot = data.parentElement.querySelector(".plot"), box = plot.getBoundingClientRect();
    plot.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + 5 }));
    return plot.querySelector(".tip").hidden || !plot.querySelector(".tip").textContent;
  }).length,
  page: getComputedStyle(inside.body).backgroundColor,
})}));
"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: apt-get install chromium")


def browse(tmp_path, *words):
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'browser'}", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert result.returncode == 0, result.stderr
    return result.stdout


def look(tmp_path, page, width, *flags):
    """Open the page in a frame of some width and return what LOOK finds there."""
    frame = f'<iframe srcdoc="{html.escape(page.read_text())}" style="width:{width}px;height:3000px;border:0"></iframe>'
    wrapper = tmp_path / "frame.html"
    wrapper.write_text(f"<!doctype html><body>{frame}<script>onload = () => {{{LOOK}}}</script></body>")
    found = re.search(r'<pre id="found">(.*?)</pre>', browse(tmp_path, *flags, "--dump-dom", wrapper.as_uri()))
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = make(tmp_path_factory.mktemp("sweep") / "stages")
    return write_report(folder), write_report(folder / "stage2-bf16-llama-00000005")


@pytest.mark.parametrize("width", [390, 1000])
def test_everything_fits_and_no_text_covers_another(tmp_path, pages, width):
    for page in pages:
        found = look(tmp_path, page, width)
        assert found["overflow"] <= 0 and found["wide"] == []
        assert not found["covered"] and not found["struck"]
        assert found["charts"] >= 3
        assert found["silent"] == 0, "the pointer reads out every chart of lines, beside one of points too"


def test_dark_follows_the_system_and_print_is_whole(tmp_path, pages):
    light = look(tmp_path, pages[0], 1000)["page"]
    dark = look(tmp_path, pages[0], 1000, "--force-dark-mode", "--blink-settings=preferredColorScheme=0")["page"]
    assert (light, dark) == ("rgb(251, 250, 248)", "rgb(21, 23, 26)")
    browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'page.pdf'}", pages[0].as_uri())
    sheets = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes()))
    assert 2 <= sheets <= 3
