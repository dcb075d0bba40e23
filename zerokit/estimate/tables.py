"""What `zerokit estimate` prints, at 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zerokit.estimate.compare import Comparison, limit
from zerokit.estimate.ledger import KINDS
from zerokit.estimate.prediction import GIB, Prediction
from zerokit.record.metrics import format_bytes, format_count, format_seconds

WIDTH = 80
LABEL = 20
TRAFFIC = {
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "all_reduce": "all-reduce",
    "outer_all_gather": "… between groups",
    "outer_reduce_scatter": "… sums between them",
    "outer_all_reduce": "… sums between them",
    "all_to_all": "all-to-all",
    "row_reads": "embedding rows",
    "row_sums": "sums of rows",
    "norm": "gradient norm",
    "optimizer": "optimizer sums",
}
"""How kinds of traffic are called, in the order of the table; the last two are all-reduces."""
SPENT = {"waiting for communication": "waiting", "issuing kernels": "the host"}
"""Short names of what a step's time is spent on."""
UNITS = (("GiB", GIB), ("MiB", GIB >> 10), ("KiB", GIB >> 20))

Row = tuple[str, Callable[[Prediction], str]]


def show(comparison: Comparison) -> None:
    """Print every table."""
    console = Console(width=WIDTH, highlight=False, soft_wrap=True)
    console.print(_header(comparison))
    cells = _Cells(comparison)
    console.print(_by_kind(comparison, cells))
    console.print(_by_policy(comparison, cells))
    if len(comparison.worlds) > 1:
        for table in _by_world(comparison, f"{cells.unit} at the peak", cells.peak):
            console.print(table)
        for table in _by_world(comparison, _speed(comparison), _per_rank) if comparison.timed else ():
            console.print(table)
    for line in _notes(comparison):
        console.print(Text(line, style="dim"))


def _header(comparison: Comparison) -> Text:
    chosen, cfg, hardware = comparison.chosen, comparison.cfg, comparison.hardware
    count = chosen.tokens_per_step // chosen.world
    tokens = f", {count:,} tokens" if comparison.counted == "tokens" else ""
    lines = (
        f"{cfg.model.name} · {chosen.parameters:,} parameters · {chosen.precision} · checkpointing "
        f"{chosen.checkpointing}",
        f"{chosen.world} × {hardware.name} · per rank and step: {chosen.accumulation} × {chosen.micro} samples{tokens}",
    )
    return Text("\n".join(lines), style="bold")


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", title_justify="left")
    table.add_column(title, no_wrap=True, min_width=LABEL - 2)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _filled(table: Table, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Table:
    for label, cell in rows:
        table.add_row(label, *(cell(prediction) for prediction in predictions))
    return table


class _Cells:
    """How figures of a comparison are written: memory in one unit, with a mark where it does not fit."""

    def __init__(self, comparison: Comparison):
        self._comparison = comparison
        peak = max(p.peak for p in comparison.stages)
        self.unit, self._size = next((unit for unit in UNITS if peak >= unit[1]), UNITS[-1])

    def memory(self, count: int) -> str:
        """Bytes in the unit."""
        return f"{count / self._size:.2f}" if count else "-"

    def peak(self, prediction: Prediction) -> str:
        """The peak, marked if a device has less."""
        comparison = self._comparison
        fits = prediction.peak <= limit(comparison.cfg, comparison.hardware, prediction.world)
        return self.memory(prediction.peak) + ("" if fits else "!")


def _speed(comparison: Comparison) -> str:
    return f"{comparison.counted}/s per rank"


def _per_rank(prediction: Prediction) -> str:
    return format_count(prediction.tokens_per_sec / prediction.world)


def _by_kind(comparison: Comparison, cells: _Cells) -> Table:
    chosen = comparison.cfg.zero.stage
    names = [f"stage {p.stage}{'*' if p.stage == chosen else ''}" for p in comparison.stages]
    rows: list[Row] = [(kind, lambda p, kind=kind: cells.memory(p.memory[kind])) for kind in KINDS]
    rows.append(("at the peak", cells.peak))
    rows.append(("sent per step", lambda p: format_bytes(p.sent_bytes)))
    used = {kind: None for p in comparison.stages for kind in p.calls}
    for kind in sorted(used, key=[*TRAFFIC, *used].index):
        rows.append((f"  {TRAFFIC.get(kind, kind)}", lambda p, kind=kind: _calls(p, kind)))
    if comparison.timed:
        rows += _times(comparison)
    return _filled(_table(f"\n{cells.unit} of a rank", (f"\n{name}" for name in names)), rows, comparison.stages)


def _calls(prediction: Prediction, kind: str) -> str:
    count = prediction.calls.get(kind, 0)
    return f"{count} × {format_bytes(prediction.traffic[kind] / count)}" if count else "-"


def _times(comparison: Comparison) -> list[Row]:
    return [
        ("time of a step", lambda p: format_seconds(p.seconds)),
        (_speed(comparison), _per_rank),
        ("most of it", _bound),
    ]


def _bound(prediction: Prediction) -> str:
    kind, share = prediction.bound()
    return f"{SPENT.get(kind, kind)} {share:.0%}"


def _by_policy(comparison: Comparison, cells: _Cells) -> Table:
    rows: list[Row] = [
        ("activations", lambda p: cells.memory(p.memory["activations"])),
        ("at the peak", cells.peak),
    ]
    if comparison.timed:
        rows += _times(comparison)[:2]
    chosen = comparison.cfg.checkpointing.name
    names = [f"\n{p.checkpointing}{'*' if p.checkpointing == chosen else ''}" for p in comparison.policies]
    title = f"\nstage {comparison.cfg.zero.stage}, checkpointing"
    return _filled(_table(title, names), rows, comparison.policies)


def _by_world(comparison: Comparison, title: str, cell: Callable[[Prediction], str]) -> Iterator[Table]:
    """Tables of all numbers of ranks, each of as many as the width has room for."""
    heads = [f"{world:,} rank{'s' * (world > 1)}" for world in comparison.worlds]
    columns = [
        [head, *map(cell, made)] for head, made in zip(heads, zip(*comparison.by_world, strict=True), strict=True)
    ]
    while columns:
        widths = accumulate(2 + max(map(len, column)) for column in columns)
        count = max(1, sum(width <= WIDTH - LABEL for width in widths))
        shown, columns = columns[:count], columns[count:]
        table = _table(f"\n{title}", (f"\n{head}" for head, *_ in shown))
        for row, *texts in zip(comparison.by_world, *(column[1:] for column in shown), strict=True):
            table.add_row(f"stage {row[0].stage}", *texts)
        yield table


def _notes(comparison: Comparison) -> list[str]:
    peer, bound = comparison.chosen.peer_bytes, limit(comparison.cfg, comparison.hardware, comparison.world)
    notes = ["", f"* as configured   ! more than the {format_bytes(bound)} that a rank may take"]
    if peer:
        notes.append(f"{format_bytes(peer)} of stage {comparison.chosen.stage} lie outside PyTorch's allocator.")
    bounds = {p.bound()[0] for p in comparison.stages} if comparison.timed else set()
    if "waiting for communication" in bounds:
        notes.append("waiting: for communication.")
    if "issuing kernels" in bounds:
        notes.append("the host: it issues kernels more slowly than the GPU runs them.")
    if "issuing kernels" in bounds and comparison.chosen.recordable:
        notes.append("train.cuda_graph=true records a step once and replays it.")
    if not comparison.timed:
        notes.append("estimate.hardware=NAME adds times; measure takes this machine's.")
    return notes
