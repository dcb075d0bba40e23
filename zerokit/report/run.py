"""The files of a run, read for the report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zerokit.config.errors import ConfigError
from zerokit.config.files import read_mapping
from zerokit.config.parse import as_number, finite, is_number
from zerokit.config.suspect import parse_yaml
from zerokit.record.metrics import counted, read_metrics

NUMBERS = ("loss", "loss_first", "predicted_gib", "seconds", "tokens", "tokens_per_sec", "tokens_per_sec_per_gpu")
NUMBERS += ("peak_tflops", "skipped_steps", "steps", "validation_loss")
KINDS = ("parameters", "gradients", "optimizer", "other")
"""Of memory."""
STATES = KINDS[:-1]
"""Those of the model's states."""
SECTIONS_OF_NUMBERS = {
    "bits_per_byte": ("first", "last", "validation"),
    "model": ("parameters",),
    "stage0": ("parameters", "gradients", "optimizer", "total"),
}
FILES = ("metrics.jsonl", "summary.json", "config.yaml")


@dataclass(frozen=True)
class Run:
    """What is known about a run."""

    directory: Path
    """Output folder."""
    config: dict[str, Any]
    """Contents of config.yaml, empty if it is missing or unreadable."""
    summary: dict[str, Any]
    """Contents of summary.json, empty if it is missing or unreadable."""
    rows: list[dict[str, Any]]
    """Rows of metrics.jsonl."""

    @property
    def status(self) -> str:
        """finished, failed or interrupted; "unfinished" while there is no summary."""
        return str(self.summary.get("status") or "unfinished")

    @property
    def goes_on(self) -> bool:
        """Whether it has not ended, as far as its files tell."""
        return self.status in ("unfinished", "running")

    @property
    def device(self) -> str | None:
        """What it computed on, as its summary says; without one, what it was told to."""
        launch = self.config.get("launch")
        return self.summary.get("device") or (launch.get("device") if isinstance(launch, dict) else None)

    @property
    def counted(self) -> str:
        """What throughput counts: tokens or samples."""
        return counted(self.summary)

    @property
    def loss_unit(self) -> str:
        """Unit of the training loss."""
        known = str(self.summary.get("loss_unit") or "")
        return known or ("nats per token" if self.series("train/bits_per_byte") else "as the model computes it")

    def series(self, name: str) -> list[tuple[float, float]]:
        """Return (step, value) of one metric by rising step; of a step that was logged again, the last value counts.

        Values that are not finite come as NaN.
        """
        values: dict[float, float] = {}
        for row in self.rows:
            step, value = row.get("trainer/step"), row.get(name)
            step, value = finite(step), as_number(value)
            if step is not None and value is not None:
                values[step] = value if math.isfinite(value) else math.nan
        return sorted(values.items())

    @cached_property
    def places(self) -> dict[str, dict[float, float]]:
        """Tokens (or samples) seen and seconds trained, evaluations left out, at each logged step."""
        seconds, before = {}, (0.0, 0.0)
        for step, each in self.series("perf/step_time_s"):
            before = (step, before[1] + (step - before[0]) * each)
            if math.isfinite(before[1]):
                seconds[step] = round(before[1], 3)
        tokens = {step: value for step, value in self.series("trainer/tokens") if not math.isnan(value)}
        return {"tokens": tokens, "seconds": seconds}

    def last(self, name: str) -> float | None:
        """Return the last finite value of a metric, or None."""
        values = [value for _, value in self.series(name) if not math.isnan(value)]
        return values[-1] if values else None

    def broken(self, name: str) -> float | None:
        """Return the step from which on a metric is not finite, to its last value; None if its last value is."""
        series = self.series(name)
        good = max((place for place, (_, value) in enumerate(series) if not math.isnan(value)), default=-1)
        return series[good + 1][0] if good + 1 < len(series) else None

    def section(self, name: str) -> dict[str, Any]:
        """Return a section of the summary or, where it has none, an empty dict."""
        value = self.summary.get(name)
        return value if isinstance(value, dict) else {}

    def items(self, name: str) -> list[Any]:
        """Return a list in the summary or, where it has none, an empty one."""
        value = self.summary.get(name)
        return value if isinstance(value, list) else []

    def numbers(self, name: str) -> list[float]:
        """Return the finite numbers of a list in the summary."""
        return [number for value in self.items(name) if (number := finite(value)) is not None]

    @property
    def memory(self) -> list[dict[str, float]]:
        """Bytes by kind of each rank, as the summary says; empty if it says nothing."""
        rows = [row for row in self.items("memory") if isinstance(row, dict)]
        return [{kind: finite(row.get(kind)) or 0.0 for kind in KINDS} for row in rows]

    def choice(self, group: str) -> str | None:
        """Return the name that the config chose in a group."""
        value = self.config.get(group)
        return str(value["name"]) if isinstance(value, dict) and value.get("name") is not None else None


def load_run(directory: Path) -> Run:
    """Read the files of a run.

    Raises:
        ConfigError: if the folder holds none of them.
    """
    if not any((directory / name).is_file() for name in FILES):
        raise ConfigError(
            f"{directory} is no folder of a run or a sweep: neither it nor a folder in it holds any of "
            f"{', '.join(FILES)}."
        )
    return Run(
        directory,
        read_mapping(directory / "config.yaml", parse_yaml),
        _sound(read_mapping(directory / "summary.json")),
        read_metrics(directory / "metrics.jsonl"),
    )


def _sound(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the summary without values of another kind than its charts and figures count on."""
    sound = _numbers(summary, NUMBERS)
    world = summary.get("world_size")
    sound.pop("world_size", None)
    if is_number(world) and isinstance(world, int) and 0 < world < 1 << 31:
        sound["world_size"] = world
    for name, known in SECTIONS_OF_NUMBERS.items():
        section = sound.get(name)
        if isinstance(section, dict):
            sound[name] = _numbers(section, known)
    return sound


def _numbers(section: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """Return a section in which what ought to be a number is one."""
    read = {key: as_number(value) if key in known else value for key, value in section.items()}
    return {key: value for key, value in read.items() if key not in known or value is not None}
