from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import rich.console

from zerokit.record.metrics import MetricsFile
from zerokit.report.cells import load_sweep
from zerokit.report.rows import columns
from zerokit.report.rows import rows as markdown_rows
from zerokit.sweep.cell import Cell, State, label_all
from zerokit.sweep.slots import Slot, divide
from zerokit.sweep.table import SweepTable, progress, table, window


def cell(folder: Path, label: str, state: State, **values) -> Cell:
    """A cell with long figures in its files."""
    config = SimpleNamespace(train=SimpleNamespace(steps=123456))
    summary = {"counted": values.pop("counted", "tokens")}
    made = Cell([], folder / label.replace(" ", "-"), config, label, state, **values)
    with MetricsFile(made.folder / "metrics.jsonl") as metrics:
        metrics.log({"train/loss": 12.3456, "perf/tokens_per_sec": 123456.0, "memory/max_allocated_gib": 123.4}, 99999)
    if state.over:
        summary |= {"steps": 123456, "loss": 1.25, "tokens_per_sec": 99.5e6, "max_allocated_gib": [1.0, 130.5]}
    (made.folder / "summary.json").write_text(json.dumps(summary))
    return made


@pytest.mark.parametrize("predicted", [None, 120.25])
def test_the_table_is_whole_in_80_columns(tmp_path, predicted):
    cells = [cell(tmp_path, f"stage{place} bf16", state, predicted_gib=predicted) for place, state in enumerate(State)]
    console = rich.console.Console(file=io.StringIO(), width=80, highlight=False)
    console.print(table(cells, 80))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in console.file.getvalue()
    assert "99999/123456" in lines[2] and "12.35" in lines[2] and "123k" in lines[2] and "123 GiB" in lines[2]
    assert ("120 GiB" in lines[3]) is (predicted is not None)
    assert "99.5M" in lines[3] and "130 GiB" in lines[3], "of the summary, of the fullest rank"
    assert lines[1].split()[:3] == ["stage0", "bf16", "waiting"] and "123k" not in lines[1], "files of an earlier run"


def test_a_long_name_is_wrapped_at_the_end_and_cut_while_cells_run(tmp_path):
    label = "stage2 bf16 selective micro=16"
    cells = [cell(tmp_path, label, State.RUNNING, predicted_gib=120.25)]
    for one_line in (True, False):
        console = rich.console.Console(file=io.StringIO(), width=80, highlight=False)
        console.print(table(cells, 80, one_line))
        head, *lines = console.file.getvalue().splitlines()
        assert max(map(len, [head, *lines])) <= 80 and "predicted" in head
        name = " ".join(line[: head.index("state")].strip() for line in lines)
        assert (name == label, len(lines) == 1) == (not one_line, one_line)


def test_figures_that_no_cell_has_take_no_room(tmp_path):
    console = rich.console.Console(file=io.StringIO(), width=80, highlight=False)
    label = "stage2 bf16 checkpointing=selective micro=16 every_k"
    console.print(table([Cell([], tmp_path, None, label, State.WAITING, predicted_gib=1.0)], 80, True))
    head, line = console.file.getvalue().splitlines()
    assert head.split() == ["cell", "state", "predicted"] and label in line


def test_brackets_in_a_cells_name_are_shown(tmp_path):
    console = rich.console.Console(file=io.StringIO(), width=80, highlight=False)
    console.print(table([Cell([], tmp_path, None, "files=[book.txt]", State.WAITING)], 80))
    assert "files=[book.txt]" in console.file.getvalue()


def test_a_small_terminal_shows_what_runs_and_what_failed(tmp_path):
    states = [State.FINISHED] * 10 + [State.FAILED, State.RUNNING] + [State.WAITING] * 10
    cells = [Cell([], tmp_path, None, str(place), state) for place, state in enumerate(states)]
    assert [shown.label for shown in window(cells, 4)] == ["10", "11", "12", "13"]
    assert window(cells, 22) == cells


def test_the_live_table_is_drawn_on_a_terminal_and_events_elsewhere(tmp_path, monkeypatch):
    cells = [cell(tmp_path, "stage0", State.RUNNING), cell(tmp_path, "stage1", State.WAITING)]
    for terminal in (True, False):
        monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "80")
        out = io.StringIO()
        out.isatty = lambda terminal=terminal: terminal
        with SweepTable(tmp_path, out) as shown:
            shown.show(cells)
            shown.started(cells[0])
        text = out.getvalue()
        assert ("━" in text) is terminal
        assert ("[1/2] stage0: started\n" in text) is not terminal
        monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.mark.parametrize(("name", "lines"), [("s", 1), ("a-name-that-is-rather-long-for-a-folder-of-a-sweep", 2)])
def test_the_heading_breaks_before_its_figures(tmp_path, monkeypatch, name, lines):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zerokit.sweep.table.time.monotonic", lambda: 0.0)  # a busy machine takes some
    out = io.StringIO()
    states = (State.FINISHED, State.FAILED, State.TOO_LARGE)
    cells = [Cell([], tmp_path, None, str(place), state) for place, state in enumerate(states)]
    SweepTable(tmp_path / name, out).finish(cells, None)
    head = out.getvalue().partition("cell ")[0].splitlines()
    assert len(head) == lines and head[0].startswith(f"3 cells in {name}/")
    assert head[-1].endswith("1 finished · 1 failed · 1 too large · 0 ms")


def test_what_had_finished_before_is_explained_where_it_occurs(tmp_path):
    for earlier in (True, False):
        out = io.StringIO()
        SweepTable(tmp_path, out).finish([cell(tmp_path, "stage0", State.FINISHED, earlier=earlier)], None)
        assert ("finished *" in out.getvalue()) is ("\n* finished before this command\n" in out.getvalue()) is earlier


@pytest.mark.parametrize(
    ("counted", "heading", "last"),
    [
        (("tokens",), "tokens/s", "tokens"),
        (("samples",), "samples/s", "samples"),
        (("samples", "tokens"), "units/s", "tokens"),
    ],
)
def test_throughput_has_the_unit_of_the_data(tmp_path, counted, heading, last):
    cells = [cell(tmp_path, str(place), State.RUNNING, counted=what) for place, what in enumerate(counted)]
    console = rich.console.Console(file=io.StringIO(), width=80)
    console.print(table(cells, 80))
    assert heading in console.file.getvalue()
    assert f"123k {last}/s" in progress(cells[-1], cells[-1].figures())


@pytest.mark.parametrize(
    ("summaries", "heading", "figures"),
    [
        ([{"loss": 2.0, "loss_unit": "nats", "bits_per_byte": {"last": 2.8854}}], "bits/byte", ["2.885"]),
        ([{"loss": 2.0, "loss_unit": "nats"}, {"loss": 1.5, "loss_unit": "nats"}], "nats", ["2", "1.5"]),
        ([{"loss": 2.0, "loss_unit": "mse"}, {}], "mse", ["2"]),
        ([{"loss": 2.0}], "loss", ["2"]),
        ([{}], "loss", []),
        (
            [{"loss": 2.0, "bits_per_byte": {"last": 2.8854}}, {"loss": 1.5, "loss_unit": "nats"}],
            "loss",
            ["2.885 bits/byte", "1.5 nats"],
        ),
    ],
)
def test_the_loss_has_one_unit_which_the_heading_names_in_table_and_markdown(tmp_path, summaries, heading, figures):
    cells = []
    for place, summary in enumerate(summaries):
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps({"status": "finished", **summary}))
        cells.append(Cell([], folder, None, f"cell{place}", State.FINISHED))
    console = rich.console.Console(file=io.StringIO(), width=80, highlight=False)
    console.print(table(cells, 80))
    shown, *rows = console.file.getvalue().splitlines()
    assert (heading in shown.split()) is bool(figures) and [
        row.split("finished")[1].strip() for row in rows if row.strip()[-1] != "d"
    ] == figures
    report = load_sweep(tmp_path)
    assert columns(report)[3] == heading
    assert [row[3] for row in markdown_rows(report, None) if row[3]] == figures


def test_what_runs_is_shown_in_bits_per_byte_as_soon_as_they_are_logged(tmp_path):
    running = cell(tmp_path, "stage0", State.RUNNING)
    with MetricsFile(running.folder / "metrics.jsonl") as metrics:
        metrics.log({"train/loss": 1.5, "train/bits_per_byte": 2.164}, 100000)
    assert "step 100000/123456, 2.164 bits/byte, " in progress(running, running.figures())
    assert "bits/byte" in str([column.header for column in table([running], 80).columns])


def test_messages_are_whole_words_on_a_terminal_and_one_line_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = "not predicted: " + "a reason with [brackets] " * 8
    for terminal in (True, False):
        monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
        out = io.StringIO()
        out.isatty = lambda terminal=terminal: terminal
        SweepTable(tmp_path, out).note(text)
        lines = out.getvalue().splitlines()
        assert (len(lines) > 1) is terminal
        assert " ".join(out.getvalue().split()) == text.strip()
        assert not terminal or max(map(len, lines)) <= 80
        SweepTable(tmp_path, out).note(f"{'a' * 39} {'b' * 40} {'c' * 90} d")
        assert not terminal or out.getvalue().splitlines()[len(lines) :] == [f"{'a' * 39} {'b' * 40}", "c" * 90, "d"]
        monkeypatch.delenv("FORCE_COLOR", raising=False)


def test_labels_are_what_sets_cells_apart(tmp_path):
    words = (["zero=stage0", "++optimizer.lr=0.012345678901", "data=text"], ["zero=stage1", "data=text"])
    cells = [Cell(list(each), tmp_path / "name", None) for each in words]
    label_all(cells)
    assert [each.label for each in cells] == ["stage0 lr=0.01235", "stage1"]
    label_all(cells[:1], fixed=["data=text"])
    assert cells[0].label == "stage0 lr=0.01235", "the only cell so far of a search"
    batch = Cell(["++batch={global:16,micro:null}"], tmp_path / "name", None)
    label_all([batch])
    assert batch.label == "global=16"


def test_slots_share_no_gpu_and_no_core():
    assert divide(1, ["0", "1"], [0, 1]) == [Slot()]
    slots = divide(2, ["0", "1", "2", "3", "7"], [0, 1, 2, 3])
    assert [slot.gpus for slot in slots] == [("0", "1"), ("2", "3")]
    assert [slot.cores for slot in slots] == [{0, 1}, {2, 3}]
    assert [slot.cores for slot in divide(3, [], [0, 1])] == [{0}, {1}, {0}], "fewer cores than cells"
    with pytest.raises(ValueError, match=r"sweep.parallel=3: each cell needs a GPU of its own, and 2 can be seen"):
        divide(3, ["0", "1"], [0, 1])
