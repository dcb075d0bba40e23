"""A cell of a sweep: one configuration, its folder, and what is known of it from the files there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerokit.config.files import read_mapping
from zerokit.config.identity import digest
from zerokit.config.parse import finite
from zerokit.config.schema import Config
from zerokit.config.suspect import parse_yaml
from zerokit.record.attempts import FOLDER as ATTEMPTS
from zerokit.record.attempts import set_aside
from zerokit.record.metrics import GIB, Loss, counted, last_loss, last_metrics
from zerokit.record.summary import predicted_facts, read_summary
from zerokit.state.folder import FOLDER as STATES
from zerokit.state.folder import saved_states

if TYPE_CHECKING:
    from zerokit.estimate.choose import Choice


class State(Enum):
    """Where a cell is; the value is the word that people read."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    TOO_LARGE = "too large"
    """It is predicted not to fit, so it was not started."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self not in (State.WAITING, State.RUNNING)


@dataclass
class Cell:
    """One job of a sweep."""

    words: list[str]
    """Overrides that make it, as Hydra takes them."""
    folder: Path
    """Output folder."""
    config: Config | None
    """The checked configuration; None if it cannot be run."""
    label: str = ""
    """What sets it apart from the other cells."""
    state: State = State.WAITING
    reason: str = ""
    """Why it failed or was not started."""
    earlier: bool = False
    """Whether it had finished before this command."""
    predicted_gib: float | None = None
    """Predicted peak memory of a rank."""
    choice: Choice | None = None
    """What `zero=auto` has chosen for it."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.train.steps if self.config else 0

    @property
    def counted(self) -> str:
        """What throughput counts: tokens or samples, as the run says."""
        return counted(read_summary(self.folder))

    @property
    def predicted(self) -> float | None:
        """Predicted peak bytes of a rank."""
        return None if self.predicted_gib is None else self.predicted_gib * GIB

    def has_finished(self) -> bool:
        """Whether the folder holds a finished run of this configuration."""
        return read_summary(self.folder).get("status") == "finished" and self._same_config()

    def is_half_done(self) -> bool:
        """Whether the folder holds saved state to go on from."""
        never = self.config is not None and self.config.state.resume == "never"
        return not never and bool(saved_states(self.folder / STATES)) and self._same_config()

    def figures(self) -> Figures:
        """Return what the files say; while it runs, what they say so far."""
        summary = read_summary(self.folder) if self.state.over else {}
        row = last_metrics(self.folder / "metrics.jsonl") if self.state is not State.WAITING else {}
        peaks = summary.get("max_allocated_gib")
        ranks = [gib for each in (peaks if isinstance(peaks, list) else ()) if (gib := finite(each)) is not None]
        return Figures(
            step=int(_first(summary.get("steps"), row.get("trainer/step")) or 0),
            loss=last_loss(summary or {"loss_unit": read_summary(self.folder).get("loss_unit")}, row),
            tokens_per_sec=_first(summary.get("tokens_per_sec"), row.get("perf/tokens_per_sec")),
            memory=_first(max(ranks, default=None), row.get("memory/max_allocated_gib"), scale=GIB),
        )

    def prepare(self) -> bool:
        """Make the folder ready to run in and return True, or return False if it holds the finished run.

        Saved state to go on from stays; otherwise what an earlier attempt left moves to `attempts/N`.
        """
        again = self.config is not None and self.config.sweep.resume == "never"
        if not again and self.has_finished():
            return False
        if again or not self.is_half_done():
            set_aside(self.folder, (path for path in self.folder.glob("*") if path.name != ATTEMPTS))
        return True

    def _same_config(self) -> bool:
        """Whether the run in the folder is of this configuration, or of what zero=auto chose for it."""
        if self.config is None:
            return False
        wanted = digest(self.config.to_dict())
        if self.config.zero.auto:
            return predicted_facts(self.folder).get("asked") == wanted
        return digest(read_mapping(self.folder / "config.yaml", parse_yaml)) == wanted


@dataclass(frozen=True)
class Figures:
    """What the table shows of a cell; None where it is not known."""

    step: int
    loss: Loss | None
    tokens_per_sec: float | None
    memory: float | None
    """Peak bytes of the fullest rank."""


def label_all(cells: Iterable[Cell], fixed: Iterable[str] = ()) -> None:
    """Give each cell a label of the words that not all of them have: `stage0 bf16`, `micro=4`.

    Args:
        cells: all of a sweep so far.
        fixed: words that the command gives to every cell.
    """
    cells = list(cells)
    common = set(fixed)
    if len(cells) > 1:
        common |= set.intersection(*(set(cell.words) for cell in cells))
    for cell in cells:
        cell.label = " ".join(short(word) for word in cell.words if word not in common) or cell.folder.name


def outcome(summary: dict[str, Any], metric: str) -> float | None:
    """Return the figure of a summary that a searching sweeper optimises, or None if there is none."""
    value: Any = summary
    for key in metric.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return finite(value)


def short(word: str) -> str:
    """Return a word without what a reader can guess: the group of a choice, the section of an option."""
    key, _, value = word.lstrip("+").partition("=")
    if re.fullmatch(r"-?\d+\.\d{5,}(e-?\d+)?", value):
        value = f"{float(value):.4g}"
    if value.startswith("{"):
        parts = [part.strip().split(":", 1) for part in value.strip("{}").split(",")]
        return " ".join("=".join(text.strip() for text in part) for part in parts if part[-1].strip() != "null")
    return f"{key.rpartition('.')[2]}={value}" if "." in key else value.replace("\\", "")


def _first(*values: Any, scale: float = 1) -> float | None:
    known = [number for value in values if (number := finite(value)) is not None]
    return known[0] * scale if known else None
