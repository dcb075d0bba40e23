"""What a rank shows of the run: rank 0 its files, tracker and terminal, the others nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from zerokit.config import registry
from zerokit.config.schema import Config
from zerokit.fault import END
from zerokit.record import summary as summaries
from zerokit.record.console import Console
from zerokit.record.metrics import MetricsFile, format_count
from zerokit.report import write_report
from zerokit.report.ended import mark_ended
from zerokit.tracker._base import RunInfo
from zerokit.train.results import progress_facts
from zerokit.train.trainer import Trainer

UNITS = {"tokens": "nats", "classification": "nats", "regression": "mse"}

log = logging.getLogger("zerokit")


class Silence:
    """What ranks other than 0 show: nothing, unless rank 0 is gone."""

    def __init__(self, folder: Path):
        self.folder = folder

    def begin(self, trainer: Trainer, resumed: Path | None) -> None:
        pass

    def progress(self, step: int, metrics: dict[str, float] | None) -> None:
        pass

    def end(self, **facts: Any) -> dict[str, Any]:
        if facts["status"] == "failed":
            self.record("failed", facts["error"])
        return facts

    def record(self, status: str, cause: str) -> None:
        """Write down how and why the run ended if the folder is that of rank 0 and not another host's."""
        if summaries.read_summary(self.folder):
            mark_ended(self.folder, status, cause)


class View:
    """Rank 0's files, tracker and terminal."""

    def __init__(self, cfg: Config, config: dict[str, Any], folder: Path, facts: dict[str, Any]):
        self.cfg, self.config, self.folder, self.summary = cfg, config, folder, facts
        self.console = Console(cfg.train.steps)
        shown = self.console.handler()
        if os.environ.get("TORCHELASTIC_ERROR_FILE"):  # else no launcher says it
            shown.addFilter(lambda record: record.name != END.name)
        logging.getLogger().addHandler(shown)
        self.tracker: Any = None
        self.file: MetricsFile | None = None
        self._trainer: Trainer | None = None
        self._warned = False
        summaries.write_summary(folder, self.summary)

    def begin(self, trainer: Trainer, resumed: Path | None) -> None:
        """The run is assembled, or goes on from the state `resumed`: open what follows it."""
        self._trainer, info = trainer, trainer.info
        count = sum(p.numel() for unit in trainer.engine.units for p in unit.parameters)
        self.summary["device"] = device_name(trainer.comm.device)
        self.summary |= {"model": {"name": self.cfg.model.name, "parameters": count}, "data_sha256": info.sha256}
        self.summary |= {"flops_per_token": trainer.flops_per_token, "peak_tflops": trainer.peak_tflops}
        self.summary["counted"] = self.console.counted = info.counted
        self.summary["loss_unit"] = UNITS[info.task]
        self.console.unit = "" if info.bytes_per_token else UNITS[info.task]
        self.console.note(
            f"{self.cfg.model.name} · {format_count(count)} parameters · stage {self.cfg.zero.stage} · "
            f"{self.cfg.precision.name} · {trainer.comm.world} × {self.summary['device']}"
        )
        self.console.note(info.description)
        step = trainer.progress.step
        self.summary["resumed_from"] = None if resumed is None else {"step": step, "path": str(resumed)}
        if resumed is not None:
            self.console.note(f"going on after step {step}, from {resumed}")
        self.file = MetricsFile(self.folder / "metrics.jsonl", after=step)
        run = self.cfg.run
        info = RunInfo(self.folder, self.config, run.name, run.group, "train", self._tags())
        self.tracker = registry.build("tracker", self.cfg.tracker, run=info)
        summaries.write_summary(self.folder, self.summary)

    def _tags(self) -> list[str]:
        cfg = self.cfg
        facts = (
            f"stage{cfg.zero.stage}",
            cfg.precision.name,
            f"checkpointing={cfg.checkpointing.name}",
            cfg.model.name,
        )
        return list(dict.fromkeys((*self.cfg.run.tags, *facts)))

    def progress(self, step: int, metrics: dict[str, float] | None) -> None:
        """A step is done."""
        if metrics is not None and self.summary.get("predicted_gib") is not None:
            metrics = metrics | {"memory/predicted_gib": self.summary["predicted_gib"]}
        self.console.progress(step, metrics)
        if metrics is not None:
            with self._lenient():
                self.file.log(metrics, step)
            self.tracker.log(metrics, step)
            log.info("step %d: %s", step, metrics)

    def end(self, **facts: Any) -> dict[str, Any]:
        """The run is over: write what came out, show it, and return the summary."""
        self.summary |= self._progress() | facts
        files = {label: name for label, name in summaries.FILES.items() if (self.folder / name).exists()}
        self.summary["files"] = {**files, "report": summaries.FILES["report"]}
        with self._lenient():
            summaries.write_summary(self.folder, self.summary)
        if self.file is not None:
            with self._lenient():
                self.file.close()
            self.tracker.finish(self.summary)
        with self._lenient():
            write_report(self.folder)
        if self.summary["status"] == "failed":
            self.console.close()  # the launcher shows the cause, which may lie on another rank
        else:
            self.console.finish(self.summary, self.folder)
        return self.summary

    @contextmanager
    def _lenient(self) -> Iterator[None]:
        """Let a file that cannot be written be no more than a warning, the first one, if the run shall go on then, or
        has failed: its cause counts."""
        try:
            yield
        except OSError as error:
            failed = self.summary["status"] == "failed"
            if self.cfg.state.on_error == "fail" and not failed:
                raise
            if not self._warned:
                log.warning("%s.%s", error, "" if failed else " The training goes on (state.on_error=continue).")
            self._warned = True

    def _progress(self) -> dict[str, Any]:
        return {} if self._trainer is None else progress_facts(self._trainer)

    def record(self, status: str, cause: str) -> None:
        """Write down how and why the run ended, from a thread beside the main one, which hangs."""
        mark_ended(self.folder, status, cause, self.summary | self._progress())


def device_name(device: torch.device) -> str:
    """The name of a GPU as its driver gives it, or `cpu`."""
    return torch.cuda.getdevice_name(device) if device.type == "cuda" else "cpu"
