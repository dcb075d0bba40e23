"""The panel at the end of a run, and its picture."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import rich.console
from rich.box import ROUNDED
from rich.console import CONSOLE_SVG_FORMAT, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from zerokit.record.advice import advice
from zerokit.record.metrics import GIB, counted, format_bytes, format_count, format_seconds, printable

KINDS = {"parameters": "blue", "gradients": "yellow", "optimizer": "magenta", "other": "bright_black"}
STATES = ("parameters", "gradients", "optimizer")
MAX_RANKS = 8
SAMPLE_LINES = 12
BAR_WIDTH = 32
STYLES = {"finished": "green", "interrupted": "yellow", "failed": "red"}


def final_panel(summary: dict[str, Any], directory: Path, unit: str = "") -> Panel:
    """Return the panel for the contents of summary.json; what is missing there is left out.

    Args:
        summary: as in summary.json.
        directory: output folder of the run.
        unit: what the loss counts where bits per byte are unknown.
    """
    parts = (
        _ending(summary),
        _figures(summary, unit),
        _memory(summary),
        _sample(summary),
        _files(summary, directory),
    )
    spaced: list[RenderableType] = []
    for part in parts:
        if part is not None:
            spaced += [Text(""), part] if spaced else [part]
    style = STYLES.get(str(summary.get("status")), "yellow")
    title = _title(summary, style)
    return Panel(Group(*spaced), title=title, title_align="left", box=ROUNDED, border_style=style, padding=(1, 2))


def save_svg(path: Path, command: str, lines: list[RenderableType], panel: Panel, width: int = 80) -> None:
    """Write a picture of a command, its progress lines and the final panel, which loads nothing from the network."""
    console = rich.console.Console(
        record=True, file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor", highlight=False
    )
    for part in (Text(f"$ {printable(command)}", style="bold"), *lines, panel):
        console.print(part)
    # rich's own format loads a font from the network.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = form.replace("Fira Code, monospace", "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(console.export_svg(title="zerokit", code_format=form), encoding="utf-8")


def _title(summary: dict[str, Any], style: str) -> Text:
    model = summary.get("model") or {}
    words = [str(summary.get("status", "ended"))]
    if model.get("name"):
        words.append(str(model["name"]))
    if model.get("parameters"):
        words.append(f"{format_count(model['parameters'])} parameters")
    if "stage" in (summary.get("zero") or {}):
        words.append(f"stage {summary['zero']['stage']}")
    if summary.get("precision"):
        words.append(str(summary["precision"]))
    if summary.get("world_size"):
        words.append(f"{summary['world_size']} × {summary.get('device', 'rank')}")
    title = Text(f" {printable(' · '.join(words))} ")
    title.stylize(f"bold {style}", 1, 1 + len(words[0]))
    return title


def _ending(summary: dict[str, Any]) -> RenderableType | None:
    if summary.get("status") not in ("failed", "interrupted"):
        return None
    grid = _grid()
    if summary.get("error"):
        grid.add_row("cause", Text(printable(str(summary["error"])).strip(), style="bold", overflow="fold"))
    grid.add_row("what to do", Text(advice(summary)))
    return grid


def _figures(summary: dict[str, Any], unit: str) -> RenderableType | None:
    rows = [("loss", _loss(summary, unit)), ("throughput", _throughput(summary)), ("time", _time(summary))]
    rows += [("peak", _peak(summary)), ("hint", _hint(summary))]
    grid = _grid()
    for label, text in rows:
        if text:
            grid.add_row(label, text)
    return grid if grid.row_count else None


def _loss(summary: dict[str, Any], unit: str) -> Text | None:
    bits = summary.get("bits_per_byte") or {}
    values = (bits.get("first"), bits.get("last")) if bits else (summary.get("loss_first"), summary.get("loss"))
    known = [_number(value, 3 if bits else 4) for value in values if value is not None]
    if not known:
        return None
    text = Text.assemble((" → ".join(known), "bold"), f" {'bits/byte' if bits else unit}".rstrip())
    held_out = bits.get("validation") if bits else summary.get("validation_loss")
    if held_out is not None:
        text.append(f", {_number(held_out, 3 if bits else 4)} on held-out data")
    if summary.get("validation_accuracy") is not None:
        text.append(f", {summary['validation_accuracy']:.1%} right")
    return text


def _throughput(summary: dict[str, Any]) -> Text | None:
    if not summary.get("tokens_per_sec"):
        return None
    text = Text.assemble((format_count(summary["tokens_per_sec"]), "bold"), f" {counted(summary)}/s")
    if summary.get("tokens_per_sec_per_gpu") and summary.get("world_size", 1) > 1:
        text.append(f", {format_count(summary['tokens_per_sec_per_gpu'])} per rank")
    return text


def _peak(summary: dict[str, Any]) -> Text | None:
    ranks = [gib for gib in summary.get("max_allocated_gib") or [] if gib is not None]
    if not ranks or not summary.get("predicted_gib"):
        return None
    measured, predicted = format_bytes(max(ranks) * GIB), format_bytes(summary["predicted_gib"] * GIB)
    if summary.get("device") == "cpu":  # no allocator counts there: what the process grew by is not tensors alone
        return Text.assemble((measured, "bold"), f" by the process, {predicted} predicted for tensors")
    return Text.assemble((measured, "bold"), f" of memory, {predicted} predicted")


def _hint(summary: dict[str, Any]) -> Text | None:
    if not summary.get("host_limits"):
        return None
    return Text("The GPU seems to wait for the host: train.cuda_graph=true records a step and replays it.")


def _time(summary: dict[str, Any]) -> Text | None:
    if summary.get("seconds") is None:
        return None
    text = Text.assemble((format_seconds(summary["seconds"]), "bold"))
    if summary.get("steps") is not None:
        text.append(f", {summary['steps']} steps")
    if summary.get("tokens"):
        text.append(f", {format_count(summary['tokens'])} {counted(summary)}")
    if summary.get("skipped_steps"):
        text.append(f", {summary['skipped_steps']} steps skipped")
    return text


def _memory(summary: dict[str, Any]) -> RenderableType | None:
    ranks = summary.get("memory") or []
    if not ranks:
        return None
    stage0 = summary.get("stage0") or {}
    longest = max([_states(row) for row in ranks] + [_states(stage0), 1])
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True, header_style="")
    table.add_column("memory", style="dim", no_wrap=True, min_width=10)
    for kind, color in KINDS.items():
        table.add_column(Text.assemble(("■ " if kind in STATES else "", color), kind), justify="right", no_wrap=True)
    table.add_column(Text("in all"), justify="right", no_wrap=True)
    for label, row in _rows(ranks):
        table.add_row(label, *_cells(row))
    if stage0:
        # Without the rest, its sum would not compare with those of the ranks; the bars below compare the states.
        table.add_row("stage 0", *_cells({kind: stage0.get(kind) for kind in STATES}), style="dim")
    return Group(table, Text(""), _bars(ranks, stage0, longest)) if stage0 else table


def _rows(ranks: list[dict[str, float]]) -> list[tuple[str, dict[str, float]]]:
    """Return labelled rows: every rank, or the fullest ones where there are many."""
    labelled = [(f"rank {rank}", row) for rank, row in enumerate(ranks)]
    if len(labelled) <= MAX_RANKS:
        return labelled
    fullest = sorted(labelled, key=lambda item: -item[1].get("total", 0))[: MAX_RANKS - 1]
    return [*fullest, (f"… {len(ranks) - len(fullest)} more", {})]


def _cells(row: dict[str, Any]) -> list[str]:
    return [format_bytes(row[kind]) if row.get(kind) is not None else "" for kind in (*KINDS, "total")]


def _states(row: dict[str, float]) -> float:
    return sum(row.get(kind) or 0 for kind in STATES)


def _bars(ranks: list[dict[str, float]], stage0: dict[str, float], longest: float) -> RenderableType:
    """Draw the model states of the rank with the most of them against those of stage 0."""
    fullest = max(range(len(ranks)), key=lambda rank: _states(ranks[rank]))
    largest = ranks[fullest]
    grid = _grid()
    ratio = _states(stage0) / max(_states(largest), 1)
    grid.add_row(f"rank {fullest}", _bar(largest, longest, format_bytes(_states(largest))))
    grid.add_row("stage 0", _bar(stage0, longest, f"{format_bytes(_states(stage0))}, {ratio:.2f} times as much"))
    return grid


def _bar(row: dict[str, float], longest: float, label: str) -> Text:
    text = Text()
    drawn, total = 0, 0.0
    for kind in STATES:
        total += row.get(kind) or 0
        end = round(total / longest * BAR_WIDTH)
        text.append("■" * (end - drawn), style=KINDS[kind])
        drawn = end
    return text.append(f"  {label}")


def _sample(summary: dict[str, Any]) -> RenderableType | None:
    if not summary.get("sample"):
        return None
    lines = printable(str(summary["sample"])).strip("\n").split("\n")
    if len(lines) > SAMPLE_LINES:
        lines = [*lines[:SAMPLE_LINES], "…"]
    return Group(Text("sample", style="dim"), Text("\n".join(lines), style="cyan", overflow="fold"))


def _files(summary: dict[str, Any], directory: Path) -> RenderableType:
    grid = _grid()
    grid.add_row("written to", Text(f"{near(directory)}/", style="bold", overflow="fold"))
    files = summary.get("files") or {}
    if files:
        grid.add_row("", Text(printable("  ".join(str(path) for path in files.values())), overflow="fold"))
    return grid


def near(directory: Path) -> Path:
    """Return the path relative to the working directory where it lies below it."""
    directory, here = directory.absolute(), Path.cwd()
    return directory.relative_to(here) if directory.is_relative_to(here) else directory


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True, min_width=10)
    grid.add_column(overflow="fold")
    return grid


def _number(value: float, digits: int) -> str:
    return f"{value:.3f}" if digits == 3 else f"{value:.{digits}g}"
