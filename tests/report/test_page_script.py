"""The script of a page in a real browser: nothing on the console, read-outs by pointer and keyboard, other axes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.browser import chromium, open_page
from tests.report.sweep_folder import make
from zerokit.record.metrics import MetricsFile
from zerokit.report import write_report

LOOKS = [(1280, "light"), (390, "dark")]
OUTSIDE = """() => [...document.querySelectorAll("figure")].flatMap((card) => {
  const box = card.getBoundingClientRect();
  const labels = card.querySelectorAll(".x span, .y span, .end, .value, .name, .number, li, figcaption");
  return [...labels].filter((label) => {
    const at = label.getBoundingClientRect();
    return at.width && (at.left < box.left - 1 || at.right > box.right + 1 || at.bottom > box.bottom + 1);
  }).map((label) => label.textContent);
})"""
"""Labels that leave their card."""
SILENT = """() => {
  const shown = () => document.querySelector(".tip:not([hidden])")?.textContent;
  const silent = [...document.querySelectorAll("figure.chart:not(.scatter) .plot")].filter((plot) => {
    const box = plot.getBoundingClientRect();
    plot.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + 5 }));
    const told = shown();
    plot.dispatchEvent(new PointerEvent("pointerleave"));
    return !told || shown();
  });
  silent.push(...[...document.querySelectorAll(".scatter .dot, .bars .row")].filter((target) => {
    target.focus();
    const told = shown();
    target.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
    return !told || shown();
  }));
  return silent.map((element) => element.outerHTML);
}"""
"""Charts that a pointer moves over, points and bars that the keyboard reaches, and that say nothing or do not stop."""
WIDTH = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """Reports of a sweep, of a run of many steps, and of one of three."""
    folder = make(tmp_path_factory.mktemp("sweep") / "stages")
    run, short = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("short")
    for place, steps in ((run, 100), (short, 3)):
        with MetricsFile(place / "metrics.jsonl") as metrics:
            for step in range(1, steps + 1):
                values = {"train/loss": 2 + 8 * math.exp(-step / 20) + 0.2 * (step % 2), "optim/lr": 1e-3 / step}
                values |= {"perf/step_time_s": 60.0, "trainer/tokens": step * 4096, "perf/mfu_pct": 41.25}
                metrics.log(values, step)
            metrics.log({"eval/loss": 2.5}, steps)
        (place / "summary.json").write_text('{"status": "finished", "device": "cpu"}')
    return {"sweep": write_report(folder), "run": write_report(run), "short": write_report(short)}


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_every_chart_answers_and_the_console_is_silent(browser, pages, width, scheme):
    for file in pages.values():
        opened = open_page(browser, file, width, scheme)
        page = opened.page
        assert page.evaluate(OUTSIDE) == [] and page.evaluate(WIDTH) <= 0
        page.check("input[name=log]")
        page.fill("input[name=smooth]", "0.9")
        assert page.evaluate(OUTSIDE) == [] and page.evaluate(WIDTH) <= 0
        page.query_selector("figure.chart:not(.scatter) .plot").hover()
        assert page.inner_text(".tip:not([hidden]) b")
        page.mouse.move(0, 0)
        assert page.evaluate(SILENT) == []
        assert (opened.said, opened.loaded) == ([], [])
        page.close()


def test_the_keyboard_walks_through_the_values(browser, pages):
    page = open_page(browser, pages["short"]).page
    plot = page.query_selector("figure.chart .plot")
    tip = plot.query_selector(".tip")
    plot.focus()
    found = []
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "End"):
        page.keyboard.press(key)
        found.append(tip.inner_text().partition("\n")[0])
    assert found == ["step 1", "step 2", "step 3", "step 3", "step 2", "step 3"]
    assert "training" in tip.inner_text() and "held out" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.close()


def test_a_short_run_draws_all_its_points(browser, pages):
    page = open_page(browser, pages["short"]).page
    assert page.get_attribute("figure.chart svg path", "d").count("L") == 2
    page.close()


def test_other_axes_logarithm_and_smoothing(browser, pages):
    page = open_page(browser, pages["run"]).page
    plot = page.query_selector("figure.chart .plot")
    as_it_came = page.inner_text("figure.chart .frame")
    first = plot.query_selector("path").get_attribute("d")

    def last_read() -> str:
        plot.focus()
        page.keyboard.press("End")
        return plot.query_selector(".tip").inner_text()

    page.select_option("select[name=x]", "tokens")
    assert last_read().startswith("409.6k tokens")
    page.select_option("select[name=x]", "seconds")
    assert last_read().startswith("100 min")
    page.check("input[name=log]")
    assert plot.query_selector("path").get_attribute("d") != first
    page.fill("input[name=smooth]", "0.9")
    assert len(plot.query_selector_all("path")) == 3, "two lines, and the first also as it was"
    page.reload()
    assert page.input_value("select[name=x]") == "seconds" and page.is_checked("input[name=log]")
    page.select_option("select[name=x]", "step")
    page.uncheck("input[name=log]")
    page.fill("input[name=smooth]", "0")
    assert page.inner_text("figure.chart .frame") == as_it_came
    assert page.get_attribute("figure.chart .plot path", "d") == first
    page.close()
