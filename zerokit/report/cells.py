"""A sweep as the report sees it: its cells and what came out of each, read from the files alone."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerokit.config.errors import ConfigError, suggestion
from zerokit.config.files import read_mapping
from zerokit.config.identity import VIEWS
from zerokit.config.parse import finite
from zerokit.record.metrics import GIB, Loss, last_loss
from zerokit.report.run import FILES, STATES, Run, load_run

MANIFEST = "sweep.json"
ATTEMPT = "attempts"
LOSSES = ("train/bits_per_byte", "train/loss")
MOST = 100
"""Runs beside those of sweep.json that a report has at most."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One cell. What is not known is None."""

    number: int
    """From 1, as in the table and the charts."""
    label: str
    """What sets it apart from the others."""
    folder: Path
    run: Run | None
    """Its files; None if it has not been started."""
    status: str
    """finished, failed, interrupted, running, waiting or too large."""
    reason: str
    """Why it failed or was not started."""
    command: str
    """Command that repeats it."""
    predicted: float | None
    """Bytes of a rank that were predicted."""

    @property
    def page(self) -> str | None:
        """Where its own report lies, from the folder of the sweep."""
        return f"{self.folder.name}/report.html" if (self.folder / "report.html").is_file() else None

    @property
    def speed(self) -> float | None:
        """Tokens per second of all ranks."""
        return self.run and (finite(self.run.summary.get("tokens_per_sec")) or self.run.last("perf/tokens_per_sec"))

    @property
    def on_cpu(self) -> bool:
        """Whether memory is that of the model's states: a process grows by more, with which nothing can be compared."""
        return self.run is not None and self.run.device == "cpu"

    @property
    def comparable(self) -> bool:
        """Whether prediction and memory are of the same kind: on a CPU only if the states were predicted too."""
        return not self.on_cpu or _predicted_states(self.run) is not None

    @property
    def loss(self) -> Loss | None:
        """Last training loss."""
        if self.run is None:
            return None
        return last_loss(self.run.summary, {name: self.run.last(name) for name in LOSSES})

    @property
    def peak(self) -> float | None:
        """Peak bytes of the fullest rank; on a CPU, where a process also grows by what is not the model's, those of the
        model's states, if they are known."""
        if self.run is None:
            return None
        if self.on_cpu and self.memory:
            return sum(self.memory.values())
        gib = max(self.run.numbers("max_allocated_gib"), default=0) or self.run.last("memory/max_allocated_gib")
        return gib * GIB if gib else None

    @property
    def memory(self) -> dict[str, float]:
        """Bytes of the fullest rank by kind, on a CPU of the model's states alone; empty where they are not known."""
        rows = self.run.memory if self.run else []
        rows = [{kind: row[kind] for kind in STATES} for row in rows] if self.on_cpu else rows
        return max(rows, key=lambda row: sum(row.values()), default={})

    @property
    def held_out(self) -> Loss | None:
        """Last loss on held-out data, in the unit of the training loss."""
        if self.run is None:
            return None
        known = {f"train/{name}": self.run.last(f"eval/{name}") for name in ("bits_per_byte", "loss")}
        summary = {"bits_per_byte": {}, "loss_unit": self.run.summary.get("loss_unit")}
        return last_loss(summary, known)

    @property
    def sha256(self) -> str | None:
        """Digest of the final weights."""
        return self.run.summary.get("weights_sha256") if self.run else None

    @property
    def world(self) -> int | None:
        """Number of ranks."""
        return self.run.summary.get("world_size") if self.run else None

    @property
    def stage(self) -> int | None:
        """ZeRO stage, also where the run chose it itself."""
        zero = (self.run.section("zero") or self.run.config.get("zero")) if self.run else None
        return zero.get("stage") if isinstance(zero, dict) else None

    @property
    def chosen(self) -> str:
        """What zero=auto chose; empty for other runs."""
        why = [str(line) for line in self.run.items("why")] if self.run else []
        return why[0].removeprefix("zero=auto: ") if why else ""

    @property
    def parameters(self) -> int | None:
        """Parameters of the model."""
        return self.run.section("model").get("parameters") if self.run else None


@dataclass(frozen=True)
class Sweep:
    """All cells of a folder."""

    directory: Path
    command: str | None
    """The command that started it."""
    cells: list[Cell]
    left_out: int = 0
    """Older runs that are not among the cells, where a folder holds very many."""
    conclusions: tuple[str, ...] = ()
    """Sentences in which a search said what it found."""

    @property
    def counted(self) -> str:
        """What the throughput of the cells counts: tokens, samples, or units where cells differ."""
        kinds = {cell.run.counted for cell in self.cells if cell.run is not None and cell.speed} or {"tokens"}
        return kinds.pop() if len(kinds) == 1 else "units"

    def finished(self) -> list[Cell]:
        """Return the cells that have finished."""
        return [cell for cell in self.cells if cell.status == "finished"]

    def baseline(self, name: str | None) -> Cell | None:
        """Return the cell that others are compared with: by number, label or folder; else the first that finished.

        Raises:
            ConfigError: if there is no such cell.
        """
        measured = [cell for cell in self.finished() if cell.speed or cell.peak]
        if name is None:
            return measured[0] if measured else None
        for cell in self.cells:
            if name in (str(cell.number), cell.label, cell.folder.name):
                return cell
        labels = [cell.label for cell in self.cells]
        raise ConfigError(f"baseline={name}: there is no such cell.{suggestion(name, labels)} Cells: {_join(labels)}.")


def is_sweep(directory: Path) -> bool:
    """Whether a folder is that of a sweep: it lists cells, or holds folders of runs, at any
    depth, and is none itself."""
    if any((directory / name).is_file() for name in FILES):
        return False
    return (directory / MANIFEST).is_file() or any(True for _ in _run_folders(directory))


def load_sweep(directory: Path) -> Sweep:
    """Read the cells of a sweep: those that sweep.json lists, and any other folder of a run, by date.

    Raises:
        ConfigError: if there are none.
    """
    listed = read_mapping(directory / MANIFEST)
    known = {str(entry["folder"]): entry for entry in _list(listed.get("cells")) if _is_entry(entry)}
    folders = [directory / name for name in known]
    others = [folder for folder in _run_folders(directory) if folder.relative_to(directory).as_posix() not in known]
    folders += _newest(others, directory)
    if not folders:
        raise ConfigError(f"{directory} holds no cell of a sweep yet.")
    runs = [load_run(folder) if _is_run(folder) else None for folder in folders]
    labels = _labels(runs)
    cells = [
        _cell(number, folder, run, known.get(folder.relative_to(directory).as_posix(), {}), label)
        for number, (folder, run, label) in enumerate(zip(folders, runs, labels, strict=True), start=1)
    ]
    command = listed.get("command")
    conclusions = tuple(map(str, _list(listed.get("conclusions"))))
    return Sweep(directory, str(command) if command else None, cells, max(0, len(others) - MOST), conclusions)


def _cell(number: int, folder: Path, run: Run | None, entry: dict[str, Any], label: str) -> Cell:
    status, reason = str(entry.get("state") or "waiting"), str(entry.get("reason") or "")
    if run is not None and run.summary.get("status"):
        # The run's own files know how it ended, but not that a cell has been killed.
        known = status in ("interrupted", "too large") or status == "failed" and run.status != "finished"
        status = status if known else run.status
        reason = str(run.summary.get("error") or reason) if status != "finished" else ""
    predicted = finite(run.summary.get("predicted_gib")) if run else None
    predicted = _known(predicted, finite(entry.get("predicted_gib")))
    return Cell(
        number,
        str(entry.get("label") or label or folder.name),
        folder,
        run,
        status,
        reason,
        _command(folder, run, entry),
        _predicted_states(run) or (predicted * GIB if predicted else None),
    )


def _predicted_states(run: Run | None) -> float | None:
    """Predicted bytes of the model's states on a rank, of a run on a CPU that has measured them."""
    if run is None or run.device != "cpu" or not run.memory:
        return None
    storage = run.section("predicted").get("storage")
    return sum(finite(storage.get(kind)) or 0.0 for kind in STATES) if isinstance(storage, dict) else None


def _command(folder: Path, run: Run | None, entry: dict[str, Any]) -> str:
    """Return the command of the run if it was for this run alone, else one that starts from its words or config."""
    own = str(run.summary.get("command") or "") if run else ""
    if own and not {"-m", "--multirun"} & set(own.split()):
        return own
    words = [str(word).lstrip("+") for word in _list(entry.get("words"))]
    words = [word for word in words if not word.startswith("sweep.")]  # of no effect on a run alone
    if words:
        return shlex.join(["python", "-m", "zerokit", *words])
    return shlex.join(["python", "-m", "zerokit", "--config-path", str(folder), "--config-name", "config"])


def _labels(runs: list[Run | None]) -> list[str]:
    """Return for each run the options in which it differs from others, such as `stage=3 name=bf16`."""
    flat = [_flat(run.config) if run else {} for run in runs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    differing = [key for key in keys if len({str(values.get(key)) for values in flat if values}) > 1]
    names = [key for key in differing if key.count(".") == 1 and key.endswith((".name", ".stage"))]
    shown = (names or differing)[:4]
    return [" ".join(_short(key, values[key]) for key in shown if key in values) for values in flat]


def differing(configs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The options that have not one value in all configurations, and their values in each; empty where one lacks it."""
    flat = [_flat(config) for config in configs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    rows = {key: ["" if key not in values else str(values[key]) for values in flat] for key in keys}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}


def _short(key: str, value: Any) -> str:
    group, _, option = key.rpartition(".")
    if option == "name":
        return str(value)
    return f"stage{value}" if key == "zero.stage" else f"{option}={value}"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if not prefix and key in VIEWS:
            continue
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and bool(entry.get("folder")) and ".." not in Path(str(entry["folder"])).parts


def _run_folders(directory: Path) -> Iterator[Path]:
    """Folders of runs at any depth; what lies in a run's folder, such as earlier attempts, belongs to that run."""
    for place, folders, files in os.walk(directory):
        if set(FILES) & set(files) and Path(place) != directory:
            folders.clear()
            yield Path(place)
        folders[:] = [name for name in folders if name != ATTEMPT]


def _newest(folders: Iterable[Path], directory: Path) -> list[Path]:
    """At most `MOST` folders, the oldest of them first, by when the files of the run were last written."""
    dated = sorted((_written(folder), folder) for folder in folders)
    if len(dated) > MOST:
        unlisted = f"{len(dated)} runs that no sweep.json there lists"
        log.warning("%s holds %s: the newest %d are shown.", directory, unlisted, MOST)
    return [folder for _, folder in dated[-MOST:]]


def _written(folder: Path) -> int:
    return max(path.stat().st_mtime_ns for name in FILES if (path := folder / name).is_file())


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in FILES)


def _known(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _join(labels: list[str]) -> str:
    return ", ".join(labels[:12]) + (", …" if len(labels) > 12 else "")
