"""The files of a run, read for the report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from zerokit.config.errors import ConfigError
from zerokit.config.files import read_mapping
from zerokit.config.parse import is_number
from zerokit.record.metrics import counted, read_metrics

NUMBERS = ("loss", "loss_first", "predicted_gib", "seconds", "tokens", "tokens_per_sec", "tokens_per_sec_per_gpu")
NUMBERS += ("world_size",)
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
            if is_number(step) and is_number(value) and math.isfinite(step):
                values[step] = float(value) if math.isfinite(value) else math.nan
        return sorted(values.items())

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
        read_mapping(directory / "config.yaml", yaml.safe_load),
        _sound(read_mapping(directory / "summary.json")),
        read_metrics(directory / "metrics.jsonl"),
    )


def _sound(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the summary without values of another kind than its charts and figures count on."""
    sound = {key: value for key, value in summary.items() if key not in NUMBERS or is_number(value)}
    if not isinstance(sound.get("world_size", 0), int):
        del sound["world_size"]
    for name, known in SECTIONS_OF_NUMBERS.items():
        section = sound.get(name)
        if isinstance(section, dict):
            sound[name] = {key: value for key, value in section.items() if key not in known or is_number(value)}
    return sound
