"""The profile of a run in the report: what its traces cost, kernel by kernel, and what communication was not hidden."""

from __future__ import annotations

from html import escape
from typing import Any

from zerokit.config.parse import finite
from zerokit.config.suspect import parse_json, read_text
from zerokit.record.metrics import printable
from zerokit.report.chart import format_value
from zerokit.report.run import Run

MAX_RANKS = 16
MAX_NAME = 160
VIEWER = "https://ui.perfetto.dev"
MEMORY_VIEWER = "https://docs.pytorch.org/memory_viz"
DEFINITION = {
    "gpu": "Communication is the time in which a NCCL kernel, a copy between GPUs or a barrier of theirs ran, waiting "
    "for slower ranks included; not hidden is the part of it in which no other kernel ran on this GPU.",
    "cpu": "Communication is the time in which gloo worked, waiting for slower ranks included; not hidden is the part "
    "of it in which no operator of this rank ran. On a CPU collectives are called one after the other, so hardly any "
    "is hidden.",
}
TITLE = {"gpu": "Costliest kernels", "cpu": "Costliest operators"}
NOTE = {
    "gpu": "Summed time of the kernels of one name; those that run side by side count twice.",
    "cpu": "Own time, without that of the operators inside; all threads together.",
}


def profile(run: Run) -> str:
    """Return communication of each rank and the costliest kernels, from profile/rankN.figures.json."""
    ranks = _ranks(run)
    if not ranks:
        return ""
    first = ranks[0]
    device = "gpu" if first.get("device") == "gpu" else "cpu"
    shown = ranks[:MAX_RANKS]
    more = f" The first {MAX_RANKS} of {len(ranks)} ranks." if len(ranks) > MAX_RANKS else ""
    body = "".join(_rank(row) for row in shown)
    head = _head("rank", "span ms", "communication ms", "not hidden ms", "not hidden, share")
    return f"""<section id="profile"><h2>Profile</h2>
<p>{first.get("steps", "?")} steps traced on each rank; figures are per step, and tracing slows a step down.
{DEFINITION[device]}{more}</p>
{_table(head, body, "Communication of each rank")}
{_kernels(first, device)}
<p>The traces are profile/rank*.json.gz: open one in {VIEWER}. {_snapshots(run)}</p></section>"""


def _ranks(run: Run) -> list[dict[str, Any]]:
    """The figures of every rank that has some, by rank; files that are cut are left out."""
    found = []
    for path in (run.directory / "profile").glob("rank*.figures.json"):
        try:
            row = parse_json(read_text(path))
        except (OSError, ValueError):
            continue
        if isinstance(row, dict) and isinstance(row.get("rank"), int):
            found.append(row)
    return sorted(found, key=lambda row: row["rank"])


def _rank(row: dict[str, Any]) -> str:
    share = row.get("exposed_pct")
    cells = [_ms(row.get(key)) for key in ("span_ms", "communication_ms", "exposed_ms")]
    return _row(str(row["rank"]), [*cells, "none" if share is None else f"{_number(share):.0f} %"])


def _kernels(row: dict[str, Any], device: str) -> str:
    kernels = [kernel for kernel in row.get("kernels") or [] if isinstance(kernel, dict)]
    if not kernels:
        return ""
    body = "".join(
        f"<tr><th scope='row' class='name'>{escape(_name(kernel))}</th><td>{escape(str(kernel.get('kind', '')))}</td>"
        f"<td>{_number(kernel.get('calls')):.4g}</td><td>{_ms(kernel.get('ms'))}</td>"
        f"<td>{_number(kernel.get('pct')):.1f}</td></tr>"
        for kernel in kernels
    )
    first = "kernel" if device == "gpu" else "operator"
    head = f"<th scope='col' class='name'>{first}</th>{_head('kind', 'calls', 'ms', '% of all')}"
    return f"<h3>{TITLE[device]}, rank {row['rank']}</h3><p>{NOTE[device]}</p>{_table(head, body, TITLE[device])}"


def _snapshots(run: Run) -> str:
    if not any((run.directory / "profile").glob("rank*.memory.pickle")):
        return ""
    return f"Snapshots of the memory are profile/rank*.memory.pickle: open one in {MEMORY_VIEWER}."


def _name(kernel: dict[str, Any]) -> str:
    name = printable(str(kernel.get("name", "?"))).replace("\n", " ")
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _number(value: Any) -> float:
    return finite(value) or 0.0


def _ms(value: Any) -> str:
    return format_value(_number(value))


def _head(*names: str) -> str:
    return "".join(f"<th scope='col'>{escape(name)}</th>" for name in names)


def _row(label: str, cells: list[str]) -> str:
    return f"<tr><th scope='row'>{escape(label)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _table(head: str, body: str, label: str) -> str:
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
