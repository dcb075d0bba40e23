"""The files that rank 0 leaves behind: metrics.jsonl, summary.json and report.html."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zerokit.callbacks import Callback, Run
from zerokit.record import summary as summaries
from zerokit.record.metrics import MetricsFile
from zerokit.report import try_report

log = logging.getLogger("zerokit")
LEAST_SECONDS = 15.0
"""Between two reports of a run that goes on."""
SHARE = 0.01
"""Of the time, that they may take."""


class Recorder(Callback):
    """Writes metrics when they come, the summary when the run is made, begins and ends, the report now and then and at
    the end."""

    def __init__(self, run: Run):
        self._run = run
        self._metrics: MetricsFile | None = None
        self._warned = False
        self._next_report = 0.0
        summaries.write_summary(run.folder, run.summary)

    def on_start(self) -> None:
        """Open the metrics; lines of steps that are to be done again are removed."""
        self._metrics = MetricsFile(self._run.folder / "metrics.jsonl", after=self._run.trainer.progress.step)
        summaries.write_summary(self._run.folder, self._run.summary)

    def on_step(self, step: int, metrics: dict[str, float] | None) -> None:
        """Write metrics."""
        if metrics is not None:
            with self._lenient():
                self._metrics.log(metrics, step)
            log.info("step %d: %s", step, metrics)
            self._show()

    def _show(self) -> None:
        """Write the report as far as it is, seldom enough to cost less than a percent of the time."""
        began = time.monotonic()
        if began >= self._next_report:
            try_report(self._run.folder, logging.DEBUG)  # what goes wrong is told at the end
            ended = time.monotonic()
            self._next_report = ended + max(LEAST_SECONDS, (ended - began) / SHARE)

    def on_end(self, summary: dict[str, Any]) -> None:
        """Write what came out; of a failure, the rank that knows the cause does."""
        if self._metrics is not None:
            with self._lenient():
                self._metrics.close()
        if summary["status"] != "failed":
            summary["files"] = summaries.files(self._run.folder)
            with self._lenient():
                summaries.write_summary(self._run.folder, summary)
            try_report(self._run.folder)

    @contextmanager
    def _lenient(self) -> Iterator[None]:
        """Let a file that cannot be written be no more than a warning, the first one, if the run shall go on then, or
        has failed: its cause counts then."""
        try:
            yield
        except OSError as error:
            failed = self._run.summary["status"] == "failed"
            if self._run.config.state.on_error == "fail" and not failed:
                raise
            if not self._warned:
                log.warning("%s.%s", error, "" if failed else " The training goes on (state.on_error=continue).")
            self._warned = True
