from __future__ import annotations

import json
import math
import os
import re
from html.parser import HTMLParser

import pytest

from zerokit.config.errors import ConfigError
from zerokit.record.metrics import MetricsFile
from zerokit.report import write_report
from zerokit.report.chart import Line, line_chart, thin
from zerokit.report.run import load_run
from zerokit.report.sections import SECTIONS

GIB = 1 << 30
HOSTILE = "</script><script>alert('1')</script><img src=x onerror=\"alert(2)\">&amp;\x00"
VOID = {"input", "meta", "br", "img", "rect", "line", "path", "link"}


class Page(HTMLParser):
    """Elements, texts and data of a page; fails on elements that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.scripts = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        (self.scripts if inside in ("script", "style") else self.texts).append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def rank(other):
    return {"parameters": GIB, "gradients": GIB // 2, "optimizer": GIB, "other": other, "total": 5 * GIB // 2 + other}


@pytest.fixture
def run_dir(tmp_path):
    directory = tmp_path / "run"
    with MetricsFile(directory / "metrics.jsonl") as metrics:
        for step in range(10, 401, 10):
            bits = 2 + 6 * math.exp(-step / 50)
            logged = {"train/loss": bits * math.log(2), "train/bits_per_byte": bits, "optim/lr": 1e-3}
            metrics.log(logged | {"perf/tokens_per_sec": 48000.0 + step, "memory/max_allocated_gib": 4.0}, step)
        metrics.log({"eval/bits_per_byte": 2.125, "eval/loss": 1.473}, 400)
    summary = {
        "status": "finished",
        "steps": 400,
        "seconds": 102.4,
        "tokens_per_sec": 48211.0,
        "bits_per_byte": {"first": 7.9, "last": 2.002, "validation": 2.125},
        "max_allocated_gib": [4.0, 4.25],
        "memory": [rank(GIB), rank(2 * GIB)],
        "stage0": {"parameters": GIB, "gradients": GIB, "optimizer": 3 * GIB, "total": 5 * GIB},
        "world_size": 2,
        "device": "cpu",
        "model": {"name": "gpt_nano", "parameters": 652288},
        "versions": {"torch": "2.13.0"},
        "sample": "def f(x):\n    return x",
        "command": "python -m zerokit zero=stage2",
        "started": "2026-01-02T03:04:05+00:00",
    }
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "config.yaml").write_text(
        "zero: {stage: 2}\noptimizer: {name: adamw, lr: 0.001}\ntrain: {steps: 400}\n"
    )
    return directory


def change_summary(directory, **values):
    path = directory / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def page(directory):
    return Page(write_report(directory).read_text(encoding="utf-8"))


def test_a_finished_run_is_shown_with_figures_charts_and_tables(run_dir):
    report = page(run_dir)
    for part in (
        "✓ finished",
        "2026-01-02 03:04 UTC",
        "python -m zerokit zero=stage2",
        "ZeRO stage 2",
        "optimizer adamw",
        "bits per byte, held out 2.125",
        "training 7.900 → 2.002",
        "tokens/s 48.2k",
        "model states per rank 2.50 GiB",
        "5.00 GiB at stage 0, the process grew by 4.25 GiB",
        "torch 2.13.0",
        "optimizer.lr 0.001",
        "return x",
    ):
        assert part in report.text
    assert write_report(run_dir) == run_dir / "report.html"
    assert sorted(file.name for file in run_dir.iterdir()) == [
        "config.yaml",
        "metrics.jsonl",
        "report.html",
        "summary.json",
    ]


def test_the_charts_draw_what_was_logged(run_dir):
    report = page(run_dir)
    labels = [attributes["aria-label"] for tag, attributes in report.elements if "aria-label" in attributes]
    assert any(
        label.startswith("Loss in bits per byte: training from 6.912 at step 10 to 2.002 at step 400")
        for label in labels
    )
    assert any("held out from 2.125" in label for label in labels)
    assert any(label.startswith("Learning rate") for label in labels)
    assert any(label.startswith("Throughput") for label in labels)
    paths = [attributes["d"] for tag, attributes in report.elements if tag == "path"]
    assert paths[0].count("L") == 39 and paths[0].startswith("M0.0 ")


def test_the_bars_have_the_proportions_of_the_memory(run_dir):
    text = write_report(run_dir).read_text()
    first = re.search(r'aria-label="rank 0: 2.50 GiB">(.*?)</svg>', text, re.DOTALL).group(1)
    widths = [float(width) for width in re.findall(r'width="([\d.]+)%"', first)]
    assert widths == [20, 10, 20]
    assert re.findall(r"var\(--(\w+)\)", first) == ["parameters", "gradients", "optimizer"]
    assert "2.00×" in text


def test_the_data_table_has_every_step_or_says_what_is_left_out(run_dir):
    text = write_report(run_dir).read_text()
    table = text[text.index('<section id="data">') :]
    assert re.search(r"<th scope='row'>400</th><td>1\.388</td><td>2\.002</td><td>1\.473</td><td>2\.125</td>", table)
    assert table.count("<th scope='row'>") == 40
    with MetricsFile(run_dir / "metrics.jsonl") as metrics:
        for step in range(410, 1001, 10):
            metrics.log({"train/loss": 1.0}, step)
    text = write_report(run_dir).read_text()
    table = text[text.index('<section id="data">') :]
    assert table.count("<th scope='row'>") == 50 and "One in 2 of the 100 logged steps" in table


def test_hostile_text_stays_text(run_dir):
    hostile = {"steps": HOSTILE, HOSTILE: HOSTILE}
    config = {"run": {"name": HOSTILE}, "model": {"name": HOSTILE}, "optimizer": {"name": HOSTILE}, "train": hostile}
    (run_dir / "config.yaml").write_text(json.dumps(config))
    change_summary(
        run_dir, status="failed", error=HOSTILE, sample=HOSTILE, command=HOSTILE, device=HOSTILE, started=HOSTILE,
        versions={HOSTILE: HOSTILE}, commit=HOSTILE, bits_per_byte=None, loss_unit=HOSTILE, loss=1.0,
    )  # fmt: skip
    harmless = [tag for tag, _ in Page(write_report(run_dir).read_text()).elements]
    report = page(run_dir)
    assert "img" not in harmless
    assert not any(name.startswith("on") for _, attributes in report.elements for name in attributes)
    assert not any("alert" in script for script in report.scripts)
    assert "onerror=" in report.text


def test_a_hostile_status_cannot_leave_its_attribute(run_dir):
    change_summary(run_dir, status='"><script>alert(1)</script>')
    assert not any("alert" in script for script in page(run_dir).scripts)


def test_the_page_loads_nothing(run_dir):
    text = write_report(run_dir).read_text()
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace("// Reads", ""))
    assert not any({"src", "href"} & set(attributes) for _, attributes in Page(text).elements)
    assert "default-src 'none'" in text


def test_before_and_after_a_crash(run_dir):
    (run_dir / "summary.json").unlink()
    data = (run_dir / "metrics.jsonl").read_bytes()
    (run_dir / "metrics.jsonl").write_bytes(data[: len(data) // 2])
    report = page(run_dir)
    assert "unfinished" in report.text and "still going on" in report.text
    assert re.search(r"steps so far \d+ of 400", report.text)
    assert any(tag == "path" for tag, _ in report.elements)


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "config.yaml"])
@pytest.mark.parametrize("content", [None, "", "\x00{[", "[1]"])
def test_any_file_may_be_missing_or_broken(run_dir, name, content):
    (run_dir / name).unlink()
    if content is not None:
        (run_dir / name).write_text(content)
    assert "zerokit" in page(run_dir).text


@pytest.mark.parametrize("odd", ["x", [1], {"a": 1}, None, True, math.inf, -1])
def test_any_field_of_the_summary_may_be_of_another_kind(run_dir, odd):
    summary = json.loads((run_dir / "summary.json").read_text()) | {"predicted_gib": 1.0, "tokens": 5, "loss": 1.0}
    for key, value in summary.items():
        change_summary(run_dir, **(summary | {key: odd}))
        assert "Training" in page(run_dir).text
        for part in value if isinstance(value, dict) else ():
            change_summary(run_dir, **(summary | {key: value | {part: odd}}))
            assert "Training" in page(run_dir).text


def test_small_values_have_a_small_unit(run_dir):
    with MetricsFile(run_dir / "metrics.jsonl") as metrics:
        for step in range(10, 401, 10):
            metrics.log({"perf/step_time_s": 0.035, "memory/max_allocated_gib": (40 + step / 10) / 1024}, step)
    labels = [attributes.get("aria-label", "") for _, attributes in page(run_dir).elements]
    assert any(label.startswith("Step time in ms: step time s from 35 at") for label in labels), labels
    assert any(
        label.startswith("Memory in MiB, peak of the ranks: highest from 41 at step 10 to 80") for label in labels
    )


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="metrics.jsonl"):
        write_report(tmp_path)


def test_a_run_that_goes_on_is_no_failure(run_dir):
    change_summary(run_dir, status="running", seconds=None)
    text = page(run_dir).text
    assert "… running" in text and "still going on" in text and "traceback" not in text and "logs/" not in text


def test_a_failure_shows_cause_and_advice(run_dir):
    change_summary(run_dir, status="failed", error="rank 1: CUDA out of memory")
    text = page(run_dir).text
    assert "✕ failed" in text and "rank 1: CUDA out of memory" in text and "zero=stage3" in text and "logs/" in text


def test_values_that_are_not_finite_break_the_line_and_are_counted(run_dir):
    with MetricsFile(run_dir / "metrics.jsonl") as metrics:
        metrics.log({"train/bits_per_byte": math.nan}, 200)
        metrics.log({"train/bits_per_byte": math.inf}, 210)
    report = page(run_dir)
    assert "training: 2 values not finite, the first at step 200." in report.text
    paths = [attributes["d"] for tag, attributes in report.elements if tag == "path"]
    assert paths[0].count("M") == 2 and "nan" not in " ".join(paths)
    for script in report.scripts:
        assert "NaN" not in script


def test_a_loss_that_ends_in_nan_is_not_told_as_if_it_had_not(run_dir):
    change_summary(run_dir, bits_per_byte=None)
    assert "not finite from" not in page(run_dir).text
    with MetricsFile(run_dir / "metrics.jsonl") as metrics:
        for step, loss in ((100, math.nan), (410, math.nan), (420, math.inf)):
            metrics.log({"train/loss": loss}, step)
    assert "not finite from step 410 on" in page(run_dir).text


@pytest.mark.parametrize(
    "status, words", [("running", "No step has been logged yet."), ("failed", "No step was logged.")]
)
def test_without_steps(run_dir, status, words):
    (run_dir / "metrics.jsonl").unlink()
    change_summary(run_dir, status=status)
    assert words in page(run_dir).text


def test_nothing_but_nan(tmp_path):
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        metrics.log({"train/loss": math.nan, "perf/tokens_per_sec": math.nan}, 1)
    assert "1 value not finite" in page(tmp_path).text


def test_a_summary_may_hold_nan(run_dir):
    change_summary(run_dir, status="failed", bits_per_byte={"first": 7.9, "last": math.nan, "validation": None})
    assert "training 7.900 → not finite" in page(run_dir).text


def test_a_step_that_was_logged_again_counts_once(run_dir):
    with MetricsFile(run_dir / "metrics.jsonl") as metrics:
        metrics.log({"optim/lr": 0.5}, 20)
    series = load_run(run_dir).series("optim/lr")
    assert len(series) == 40 and dict(series)[20] == 0.5 and series == sorted(series)


def test_other_tasks_have_their_own_unit(run_dir):
    (run_dir / "metrics.jsonl").write_text(
        '{"trainer/step": 1, "train/loss": 4.0}\n{"trainer/step": 2, "train/loss": 3.5}\n'
    )
    change_summary(run_dir, bits_per_byte=None, loss=3.5, loss_first=4.0, loss_unit="mse")
    text = page(run_dir).text
    assert "loss mse 3.500 from 4" in text and "bits per byte" not in text


def test_thinning_keeps_extremes_gaps_and_the_end():
    points = [(step, float(step % 7)) for step in range(10000)]
    points[5000] = (5000, 99.0)
    points[7000] = (7000, math.nan)
    thinned = thin(points)
    assert len(thinned) <= 502
    assert (5000, 99.0) in thinned and thinned[-1] == points[-1]
    assert any(math.isnan(value) for _, value in thinned)
    assert [step for step, _ in thinned] == sorted(step for step, _ in thinned)


def test_a_single_point_is_marked():
    assert 'class="dot"' in line_chart("Loss", "nats", [Line("training", "first", [(1, 2.0)])])


def test_no_text_can_end_the_script_of_a_chart():
    chart = Page(line_chart(HOSTILE, HOSTILE, [Line(HOSTILE, "first", [(1, 2.0), (2, 3.0)])]))
    (data,) = chart.scripts
    assert json.loads(data)[0]["label"] == HOSTILE
    assert "img" not in [tag for tag, _ in chart.elements]


def test_a_section_can_be_added(run_dir, monkeypatch):
    monkeypatch.setattr("zerokit.report.page.SECTIONS", [*SECTIONS, lambda run: f"<p>{run.status} twice</p>"])
    assert "finished twice" in page(run_dir).text


def test_titles_tell_runs_apart(run_dir):
    change_summary(run_dir, host="node7")
    report = page(run_dir)
    for part in ("gpt_nano · stage 2 · 2 × cpu · node7 · run · finished", "host node7", "folder run"):
        assert part in report.text


def test_predictions_stand_beside_what_was_measured_and_states_come_first_on_a_cpu(run_dir):
    storage = {"parameters": GIB, "gradients": GIB // 2, "optimizer": GIB, "buffers": 7, "host": 0}
    memory = {"weights": GIB, "master": GIB, "gradients": 0, "optimizer": GIB, "activations": GIB}
    change_summary(run_dir, predicted={"storage": storage, "memory": memory})
    labels = [attributes.get("aria-label") for _, attributes in page(run_dir).elements]
    assert "predicted: 2.50 GiB" in labels and "predicted: 4.00 GiB" in labels
    assert "Growth of the process" in page(run_dir).text
    change_summary(run_dir, device="NVIDIA H200")
    report = page(run_dir)
    assert "Growth of the process" not in report.text and "peak memory per rank 4.25 GiB" in report.text
    for odd in ("x", [1], {"storage": 1, "memory": [2]}, {"storage": {"parameters": "x"}, "memory": {"weights": {}}}):
        change_summary(run_dir, predicted=odd)
        page(run_dir)


def test_a_failure_shows_the_end_of_the_logs(run_dir, tmp_path):
    logs = run_dir / "logs"
    logs.mkdir()
    (logs / "rank0.log").write_text("".join(f"line {number}\n" for number in range(10_000)))
    (logs / "rank1.err").write_text("Traceback\nValueError: <b>bad</b> \x1b[31mred\n")
    (tmp_path / "secret").write_text("password")
    (logs / "rank2.log").symlink_to(tmp_path / "secret")
    os.mkfifo(logs / "rank3.log")
    change_summary(run_dir, status="failed", error="rank 1: ValueError")
    report = page(run_dir)
    assert "the end of logs/rank1.err" in report.text and "ValueError: <b>bad</b>" in report.text
    assert "line 9999" in report.text and "line 9000" not in report.text
    assert "password" not in report.text and "\x1b" not in report.text
    change_summary(run_dir, status="finished", error=None)
    assert "the end of" not in page(run_dir).text


def test_a_run_links_to_its_tracker_and_its_sweep(run_dir):
    def links() -> list[str]:
        return [attributes["href"] for tag, attributes in page(run_dir).elements if tag == "a"]

    assert links() == []
    (run_dir.parent / "sweep.json").write_text("{}")
    change_summary(run_dir, tracker_url="https://wandb.ai/me/mine/runs/x")
    assert links() == ["../report.html", "https://wandb.ai/me/mine/runs/x"]
    change_summary(run_dir, tracker_url="javascript:alert(1)")
    assert links() == ["../report.html"]


def test_only_a_run_that_goes_on_is_read_again(run_dir):
    assert "data-live" not in write_report(run_dir).read_text()
    change_summary(run_dir, status="running")
    assert 'data-live="15"' in write_report(run_dir).read_text()


def test_points_know_their_tokens_and_seconds(tmp_path):
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        for step in (2, 4, 6):
            metrics.log({"train/loss": 1.0, "perf/step_time_s": 0.5, "trainer/tokens": step * 64}, step)
    (tmp_path / "summary.json").write_text("{}")
    (line,) = json.loads(page(tmp_path).scripts[1])
    assert line["places"] == ["tokens", "seconds"]
    assert [point[4:] for point in line["points"]] == [[128, 1.0], [256, 2.0], [384, 3.0]]
