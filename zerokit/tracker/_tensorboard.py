"""The tracker for TensorBoard. The first failure of any kind turns it off with one warning."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from zerokit.tracker._base import RunInfo

log = logging.getLogger(__name__)


class TensorboardTracker:
    """Writes metrics as scalars, the config and the summary as text. No method raises."""

    def __init__(self, options: Any, run: RunInfo) -> None:
        self._writer: Any = None
        self._guard("start", lambda: self._start(options, run))

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Show the metrics of one step."""
        if self._writer is not None:
            self._guard("log", lambda: self._scalars(metrics, step))

    def finish(self, summary: dict[str, Any]) -> None:
        """Add the summary and close the file."""
        if self._writer is not None:
            self._guard("finish", lambda: self._finish(summary))
        self._writer = None

    def _guard(self, action: str, call: Callable[[], None]) -> None:
        # A view of metrics.jsonl, such as a full disk may break: it must not end the training.
        try:
            call()
        except Exception as error:
            self._writer = None
            line = (str(error).strip().splitlines() or [""])[0]
            log.warning("tensorboard is off for the rest of this run (%s: %s: %s); metrics.jsonl goes on.",
                        action, type(error).__name__, line)  # fmt: skip

    def _start(self, options: Any, run: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(run.directory / "tensorboard", flush_secs=options.flush_secs)
        about = {"name": run.name or run.directory.name, "group": run.group, "job_type": run.job_type, "tags": run.tags}
        self._writer.add_text("run", _block(about))
        self._writer.add_text("config", _block(run.config))

    def _scalars(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def _finish(self, summary: dict[str, Any]) -> None:
        self._writer.add_text("summary", _block(summary))
        self._writer.close()


def _block(values: dict[str, Any]) -> str:
    """Values as TensorBoard shows them unchanged: Markdown's indented block."""
    return "\n".join(f"    {line}" for line in json.dumps(values, indent=2, default=str).splitlines())
