from __future__ import annotations

import json
import math
import os
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.commands import zerokit
from tests.report.sweep_folder import cell, change, make
from tests.report.test_report import HOSTILE, Page
from zerokit.record.metrics import GIB, MetricsFile
from zerokit.report import cells, write_report
from zerokit.report.cells import Cell, Sweep, load_sweep
from zerokit.report.compare import frontier, parities, told
from zerokit.report.rows import markdown
from zerokit.report.run import load_run


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "stages-1a2b3c4d")


def row(sweep_folder, label):
    lines = (sweep_folder / "report.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("|") and f"| {label} |" in line]
    return [text.strip() for text in line.strip("|").split("|")]


def test_the_table_has_figures_ratios_prediction_and_the_frontier(folder):
    assert write_report(folder) == folder / "report.html"
    assert row(folder, "stage1 bf16") == [
        "4", "stage1 bf16", "finished", "2.55", "96.9k", "0.98×", "11.9 GiB", "0.61×", "11.8 GiB", "-1.0 %", "★",
    ]  # fmt: skip
    assert row(folder, "stage2 fp32")[-1] == "", "stage 2 bf16 is faster with less memory"
    assert row(folder, "stage0 fp32")[2:] == ["too large", "", "", "", "", "", "91.2 GiB", "", ""]
    write_report(folder, "stage2 fp32")
    assert row(folder, "stage1 bf16")[5:8] == ["2.08×", "11.9 GiB", "0.77×"]
    for name in ("2", "stage0-bf16-llama-00000001"):
        write_report(folder, name)
        assert row(folder, "stage0 bf16")[5] == "1.00×"


def test_the_page_shows_every_part(folder):
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    for part in (
        "⤢ 1 too large", "✓ 5 finished", "✕ 1 failed", "… 1 running",
        "fastest, tokens/s 98.8k stage0 bf16",
        "least memory of a rank 9.61 GiB stage2 bf16",
        "weights of the stages 1 of 2 identical",
        "stage0 bf16, stage1 bf16, stage2 bf16: the final weights are the same, bit for bit.",
        "stage2 fp32, stage3 fp32: the final weights are not bit-identical; the largest relative difference of a "
        "logged loss is 4.1e-06 (stage3 fp32, step 200).",
        "1 stage0 fp32: too large predicted 91.2 GiB, the GPU has 79.6 GiB",
        "rank 1: OutOfMemoryError: CUDA out of memory.", "a higher stage (zero=stage3)",
        "7 stage3 fp32 python -m zerokit zero=stage3 precision=fp32 model=llama_1b",
        "8 stage3 bf16 python -m zerokit zero=stage3 precision=bf16 model=llama_1b",
    ):  # fmt: skip
        assert part in page.text
    labels = [attributes.get("aria-label", "") for _, attributes in page.elements]
    assert any(
        label.startswith("Training loss")
        and "8 stage3 bf16 from" in label
        and "2 stage0 bf16 = 4 stage1 bf16 = 6 stage2 bf16 from" in label
        and "; 7 stage3 fp32 from" in label
        for label in labels
    )
    assert any(label.startswith("Throughput against memory: stage0 bf16: 98.8k tokens/s") for label in labels)
    text = (folder / "report.html").read_text()
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace("// Reads", ""))


def test_losses_that_nearly_agree_are_drawn_in_dashes_of_their_own(folder):
    text = write_report(folder).read_text()
    plot = text[text.index("<b>Training loss</b>") :]
    plot, legend = plot[: plot.index("</svg>")], plot[plot.index('<ul class="legend keys">') : plot.index("</ul>")]
    styles = re.findall(r'style="stroke:var\(--\w+\);?([^"]*)"', plot)
    assert len(styles) == len(set(styles)) == 4, "one line for what is equal, and no two of one pattern"
    assert re.findall(r'style="stroke:var\(--\w+\);?([^"]*)"', legend) == styles
    assert "= joins cells whose losses are equal" in text


def test_one_line_stands_for_cells_that_all_agree(tmp_path):
    for stage in (0, 1, 2):
        cell(tmp_path / f"cell{stage}", stage, "fp32", 4.0, stage)
    assert "equal in all 3 cells" in Page(write_report(tmp_path).read_text()).text


@pytest.mark.parametrize("odd", ["x", [1], True, None, 3.5, math.inf])
def test_any_field_that_cells_are_compared_by_may_be_of_another_kind(folder, odd):
    place = folder / "stage2-fp32-llama-00000004"
    for values in ({"world_size": odd}, {"model": {"parameters": odd}}, {"model": odd}, {"why": odd}, {"zero": odd},
                   {"threads": odd}):  # fmt: skip
        change(place, **({"world_size": 8, "zero": {"stage": 2}, "model": {"parameters": 5}} | values))
        (place / "config.yaml").write_text(json.dumps({"zero": odd, "batch": odd}))
        assert "5 stage2 fp32" in Page(write_report(folder).read_text()).text


def test_cells_far_apart_are_shown_on_logarithmic_axes_and_numbers_without_room_are_left_out(tmp_path):
    for place in range(40):
        cell(tmp_path / f"cell{place:02d}", place % 4, "fp32", 2.0, place)
        change(tmp_path / f"cell{place:02d}", tokens_per_sec=1000.0 + place)
    text = write_report(tmp_path).read_text()
    assert text.count('class="number"') < text.count('title="') == 40 and "numbers are left out" in text
    assert "log scale" not in text[text.index('<section id="tradeoff">') : text.index('<section id="memory">')]
    change(tmp_path / "cell01", tokens_per_sec=4.0, max_allocated_gib=[0.01])
    chart = write_report(tmp_path).read_text()
    assert "the frontier is filled and joined; vertical and horizontal log scale" in chart
    write_report(tmp_path)
    assert "| 0.004× |" in (tmp_path / "report.md").read_text() and "0.00×" not in chart


def test_what_auto_chose_is_told_and_its_batch_is_compared_as_it_came_out(tmp_path):
    for stage, batch in ((0, {"global": 4}), (1, {"global": 4, "micro": 2, "accumulation": 1})):
        cell(tmp_path / f"cell{stage}", stage, "fp32", 4.0, stage)
        change(tmp_path / f"cell{stage}", predicted={"micro": 2, "accumulation": 1})
        (tmp_path / f"cell{stage}" / "config.yaml").write_text(json.dumps({"zero": {"stage": stage}, "batch": batch}))
    change(tmp_path / "cell1", why=["zero=auto: stage 1, checkpointing none.", "The fastest of 24."])
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "chose stage 1, checkpointing none." in text and "same, bit for bit" in text
    change(tmp_path / "cell1", predicted={"micro": 1, "accumulation": 2})
    assert parities(load_sweep(tmp_path)) == []


def test_on_a_cpu_there_is_no_error_of_the_prediction_and_samples_are_called_so(folder):
    write_report(folder)
    assert row(folder, "stage1 bf16")[9].endswith(" %")
    for place in folder.glob("*/summary.json"):
        change(place.parent, device="cpu", counted="samples")
    page = write_report(folder).read_text(encoding="utf-8")
    assert row(folder, "stage1 bf16")[8:10] == ["11.8 GiB", ""], "predicted, but not compared"
    text = page + (folder / "report.md").read_text(encoding="utf-8")
    assert "fastest, samples/s" in text and "| samples/s |" in text and "tokens/s" not in text
    assert "○ is the prediction" not in text


def test_the_bars_and_marks_have_the_proportions_of_the_memory(folder):
    text = write_report(folder).read_text()
    bar = re.search(r'aria-label="4 stage1 bf16: 11.9 GiB">(.*?)</svg>', text, re.DOTALL).group(1)
    longest = 19.53
    widths = [float(width) for width in re.findall(r'width="([\d.]+)%"', bar)]
    assert widths[:3] == [pytest.approx(gib / longest * 100, abs=0.02) for gib in (4, 4, 1)]
    assert float(re.search(r'cx="([\d.]+)%"', bar).group(1)) == pytest.approx(11.935 * 0.99 / longest * 100, abs=0.02)


def test_hostile_text_stays_text(folder):
    values = json.loads((folder / "sweep.json").read_text())
    for entry in values["cells"]:
        entry |= {"label": HOSTILE, "reason": HOSTILE, "words": [HOSTILE], "state": HOSTILE}
    (folder / "sweep.json").write_text(json.dumps(values | {"command": HOSTILE}))
    change(folder / "stage2-fp32-llama-00000004", command=HOSTILE, error=HOSTILE, status=HOSTILE)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "img" not in [tag for tag, _ in page.elements]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    told = [script for script in page.scripts if "alert" in script]
    assert all(json.loads(script) and "<" not in script for script in told), "as data of a chart only"
    lines = (folder / "report.md").read_text().splitlines()
    assert all(line.startswith("    ") or r"\<img" in line for line in lines if "<img" in line), "escaped or in code"


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "config.yaml"])
@pytest.mark.parametrize("content", [None, "", "\x00{[", "[1]", '{"memory": [1], "max_allocated_gib": "x"}'])
def test_files_of_a_cell_may_be_missing_or_broken(folder, name, content):
    file = folder / "stage2-fp32-llama-00000004" / name
    file.unlink()
    if content is not None:
        file.write_text(content)
    assert "5 stage2 fp32" in Page(write_report(folder).read_text(encoding="utf-8")).text


@pytest.mark.parametrize("content", [None, "", "[1]", '{"cells": [1, {"folder": "../x"}, {"folder": "later"}]}'])
def test_without_a_list_of_cells_the_folders_are_read_and_named_by_what_differs(folder, content):
    (folder / "sweep.json").unlink()
    if content is not None:
        (folder / "sweep.json").write_text(content)
    write_report(folder)
    assert row(folder, "stage1 bf16")[2] == "finished"
    assert row(folder, "stage3 fp32")[2] == "finished"


def shown(folder):
    lines = (folder / "report.md").read_text().splitlines()
    return [line.split("|")[2].strip() for line in lines if re.match(r"\| \d+ \|", line)]


def test_runs_are_found_at_any_depth_by_date_and_the_newest_where_they_are_many(tmp_path, monkeypatch, caplog):
    places = ("2026-01-01/10-00/", "sweeps/zero-1/stage1-a", "sweeps/zero-1/stage2-b", "2026-01-02/09-00")
    for day, place in enumerate(places):
        cell(tmp_path / place, day, "fp32", 1.0, day)
        for file in (tmp_path / place).iterdir():
            os.utime(file, (day, day))
    cell(tmp_path / places[0] / "attempts" / "1", 3, "fp32", 1.0, 9)
    cell(tmp_path / "attempts" / "2", 3, "fp32", 1.0, 9)
    write_report(tmp_path)
    assert shown(tmp_path) == [f"stage{stage}" for stage in range(4)]
    monkeypatch.setattr(cells, "MOST", 3)
    write_report(tmp_path)
    assert shown(tmp_path) == [f"stage{stage}" for stage in (1, 2, 3)]
    assert "Older runs of this folder that are left out: 1." in (tmp_path / "report.md").read_text()
    assert "holds 4 runs that no sweep.json there lists: the newest 3 are shown." in caplog.text


def test_folders_that_are_no_sweep_are_refused_in_one_line(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "unstarted").mkdir()
    (tmp_path / "unstarted" / "sweep.json").write_text('{"cells": []}')
    for words, message in (
        (["empty"], "empty is no folder of a run or a sweep"),
        (["unstarted"], "unstarted holds no cell of a sweep yet."),
        ([folder.name, "baseline=stage9"], "baseline=stage9: there is no such cell. Cells: stage0 fp32, stage0 bf16"),
        ([f"{folder.name}/stage2-fp32-llama-00000004", "baseline=1"], "holds none"),
    ):
        result = zerokit("report", *words, cwd=tmp_path)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
        assert message in result.stderr
    result = zerokit("report", folder.name, "baseline=stage2 bf16", cwd=tmp_path)
    assert result.stdout.splitlines() == [f"{folder.name}/report.html", f"{folder.name}/report.md"]


def test_cells_that_compute_different_things_are_not_compared(folder):
    groups = [[cell.label for cell in parity.cells] for parity in parities(load_sweep(folder))]
    assert groups == [["stage0 bf16", "stage1 bf16", "stage2 bf16"], ["stage2 fp32", "stage3 fp32"]]
    for name in ("stage2-fp32-llama-00000004", "stage3-fp32-llama-00000006"):
        (folder / name / "metrics.jsonl").unlink()
    assert "no logged loss can be compared" in told(parities(load_sweep(folder))[1])


def test_a_loss_that_is_not_finite_does_not_hide_another_difference(tmp_path):
    for place, stage in enumerate((0, 1)):
        cell(tmp_path / f"cell{stage}", stage, "fp32", 4.0, place)
        change(tmp_path / f"cell{stage}", weights_sha256=str(stage))
        with MetricsFile(tmp_path / f"cell{stage}" / "metrics.jsonl") as metrics:
            metrics.log({"train/loss": math.nan}, 300)
            metrics.log({"train/loss": 2.0 + 0.5 * stage}, 310)
    (parity,) = parities(load_sweep(tmp_path))
    assert (parity.identical, parity.loss_gap, parity.step) == (False, 0.25, 310)


def test_scaling_and_the_largest_model_are_drawn_where_cells_differ_in_them(tmp_path):
    for place, (ranks, rule) in enumerate((r, rule) for r in (1, 2, 4) for rule in ("global", "micro")):
        name = f"cell{place}"
        cell(tmp_path / name, 2, "fp32", 4.0, place)
        change(tmp_path / name, world_size=ranks, tokens_per_sec=1000.0 * ranks, model={"parameters": 1000 * ranks})
        (tmp_path / name / "config.yaml").write_text(json.dumps({"zero": {"stage": 2}, "batch": {rule: 8}}))
    labels = [a.get("aria-label", "") for _, a in Page(write_report(tmp_path).read_text()).elements]
    (scaling,) = [label for label in labels if label.startswith("Scaling")]
    assert "strong, stage 2 from 1k at ranks 1 to 4k at ranks 4" in scaling
    assert any(label == "stage 2: 4.00k" for label in labels)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_frontier_is_what_no_cell_beats(figures):
    cells = [_measured(number, speed, peak) for number, (speed, peak) in enumerate(figures, start=1)]
    best = frontier(cells)
    assert best, "some cell is always on it"
    for one in cells:
        beaten = any((o.speed > one.speed and o.peak <= one.peak) or (o.speed >= one.speed and o.peak < one.peak)
                     for o in cells)  # fmt: skip
        assert (one in best) is not beaten
    assert [cell.peak for cell in best] == sorted(cell.peak for cell in best)


class _Measured(Cell):
    speed = property(lambda self: self.figures[0])
    peak = property(lambda self: self.figures[1])


def _measured(number, speed, peak):
    made = _Measured(number, str(number), None, None, "finished", "", "", None)
    object.__setattr__(made, "figures", (float(speed), float(peak)))
    return made


def test_text_cannot_leave_its_cell_of_the_markdown_table(tmp_path):
    made = Cell(1, "a|b\n# c `x` <i>", tmp_path, None, "failed", "d|e\n- f", "python x", None)
    lines = markdown(Sweep(tmp_path, None, [made]), None).splitlines()
    (line,) = [line for line in lines if "a\\|b" in line and line.startswith("|")]
    assert "a\\|b # c \\`x\\` \\<i\\>" in line
    assert "- a\\|b # c \\`x\\` \\<i\\> (failed): d\\|e - f" in lines


def test_losses_are_drawn_in_bits_per_byte_where_every_cell_has_them(tmp_path):
    for places, unit in (((0, 1), "bits per byte"), ((0, 1, 2), "as each model computes it")):
        for place in places:
            (tmp_path / f"cell{place}").mkdir(exist_ok=True)
            with MetricsFile(tmp_path / f"cell{place}" / "metrics.jsonl") as metrics:
                bits = {"train/bits_per_byte": 3.0 + place} if place < 2 else {}
                metrics.log({"train/loss": 2.0 + place, **bits}, 1)
        page = write_report(tmp_path).read_text()
        assert f"Training loss in {unit}" in page
    assert "| loss |" in (tmp_path / "report.md").read_text(), "cells of different units have their own"
    assert row(tmp_path, "cell1")[3] == "4.000 bits/byte"


def test_a_cell_whose_summary_is_lost_computed_where_its_config_says(folder):
    (place,) = folder.glob("stage1-bf16-*")
    (place / "summary.json").write_text("{")
    config = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
    (place / "config.yaml").write_text(yaml.safe_dump(config | {"launch": {"device": "cpu"}}), encoding="utf-8")
    assert [one.on_cpu for one in load_sweep(folder).cells if one.folder == place] == [True]


def test_runs_whose_threads_differ_are_said_to(tmp_path):
    """A CPU's kernels divide sums by threads, so weights that differ then are no sign of a fault."""
    for stage, threads in ((0, [1, 1]), (1, [4, 2])):
        cell(tmp_path / f"cell{stage}", stage, "fp32", 4.0 + stage, stage)
        change(tmp_path / f"cell{stage}", threads=threads, device="cpu", weights_sha256=str(stage))
    write_report(tmp_path)
    told = " Ranks had different numbers of CPU threads (stage0: 1, 1; stage1: 4, 2), which change sums"
    assert told in (tmp_path / "report.md").read_text()
    for stage in (0, 1):
        change(tmp_path / f"cell{stage}", threads=[1, 1])
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "not bit-identical" in text and "CPU threads" not in text


def test_cells_link_to_their_pages_and_show_what_differs_and_held_out_losses(tmp_path):
    for stage in (0, 3):
        cell(tmp_path / f"cell{stage}", stage, "fp32", 4.0, 0)
        with MetricsFile(tmp_path / f"cell{stage}" / "metrics.jsonl") as metrics:
            metrics.log({"eval/loss": 2.75 + stage}, 200)
    write_report(tmp_path / "cell3")
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert '<a href="cell3/report.html">' in text and 'href="cell0/report.html"' not in text
    assert "Held-out loss" in text and "<td>5.75</td>" in text
    assert '<th scope="row" class="name">zero.stage</th><td>0</td><td>3</td>' in text
    assert "| held out |" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_on_a_cpu_a_sweep_compares_the_states_of_the_model(tmp_path):
    for stage in (0, 3):
        folder = tmp_path / f"cell{stage}"
        cell(folder, stage, "fp32", 40.0, 0)
        states = load_run(folder).memory[0]
        change(folder, device="cpu", predicted={"storage": {**states, "buffers": 5}})
    write_report(tmp_path)
    sweep = load_sweep(tmp_path)
    assert [cell.peak for cell in sweep.cells] == [16 * GIB, 2 * GIB]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "+0.0 %" in text and "the model's states" in text
