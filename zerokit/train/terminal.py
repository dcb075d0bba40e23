"""What rank 0 shows of its run on the terminal."""

from __future__ import annotations

import logging
import os
from typing import Any

from zerokit.callbacks import Callback, Run
from zerokit.fault import END
from zerokit.record.console import Console
from zerokit.record.metrics import format_count


class Terminal(Callback):
    """Shows the heading, a line or a bar per step, warnings, and a panel at the end."""

    def __init__(self, run: Run):
        self._run, self._console = run, Console(run.config.train.steps)
        shown = self._console.handler()
        if os.environ.get("TORCHELASTIC_ERROR_FILE"):  # else no launcher says it
            shown.addFilter(lambda record: record.name != END.name)
        logging.getLogger().addHandler(shown)

    def on_start(self) -> None:
        """Show what is trained on what, and from where."""
        cfg, summary, info = self._run.config, self._run.summary, self._run.trainer.info
        self._console.counted = summary["counted"]
        self._console.unit = "" if info.bytes_per_token else summary["loss_unit"]
        model = summary["model"]
        self._console.note(
            f"{model['name']} · {format_count(model['parameters'])} parameters · stage {cfg.zero.stage} · "
            f"{cfg.precision.name} · {self._run.world} × {summary['device']}"
        )
        self._console.note(info.description)
        if self._run.resumed is not None:
            step = self._run.trainer.progress.step
            self._console.note(f"going on after step {step}, from {self._run.resumed}")

    def on_step(self, step: int, metrics: dict[str, float] | None) -> None:
        """Move the bar, or write a line where there are metrics."""
        self._console.progress(step, metrics)

    def on_end(self, summary: dict[str, Any]) -> None:
        """Show the summary; of a failure the launcher shows the cause, which may lie on another rank."""
        if summary["status"] == "failed":
            self._console.close()
        else:
            self._console.finish(summary, self._run.folder)
