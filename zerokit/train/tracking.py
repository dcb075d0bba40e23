"""The run as a tracker shows it."""

from __future__ import annotations

from typing import Any

from zerokit.callbacks import Callback, Run
from zerokit.config import registry
from zerokit.config.environment import shown
from zerokit.state.folder import FOLDER
from zerokit.state.manifest import read_manifest
from zerokit.tracker import RunInfo
from zerokit.tracker._base import Tracker


class Tracking(Callback):
    """Hands metrics and summary of rank 0 to the tracker that the configuration names."""

    def __init__(self, run: Run):
        self._run = run
        self._tracker: Tracker | None = None

    def on_start(self) -> None:
        """Open the tracker."""
        cfg, values = self._run.config, shown(self._run.config.to_dict())
        named = values["run"]
        tags = [*named["tags"], *self._tags()]
        info = RunInfo(self._run.folder, values, named["name"], named["group"], "train", tags, self._id())
        self._tracker = registry.build("tracker", cfg.tracker, run=info)
        self._run.tracked |= {"name": cfg.tracker.name, "id": getattr(self._tracker, "id", None)}
        if (url := getattr(self._tracker, "url", None)) is not None:
            self._run.summary["tracker_url"] = url

    def _id(self) -> str | None:
        """The tracker's id of the run that goes on from one of its own states."""
        resumed = self._run.resumed
        if resumed is None or resumed.parent != self._run.folder / FOLDER:
            return None
        tracked = read_manifest(resumed).facts.get("tracker", {})
        return tracked.get("id") if tracked.get("name") == self._run.config.tracker.name else None

    def _tags(self) -> list[str]:
        cfg = self._run.config
        facts = (
            f"stage{cfg.zero.stage}",
            cfg.precision.name,
            f"checkpointing={cfg.checkpointing.name}",
            cfg.model.name,
        )
        return [fact for fact in dict.fromkeys(facts) if fact not in cfg.run.tags]

    def on_step(self, step: int, metrics: dict[str, float] | None) -> None:
        """Show metrics."""
        if metrics is not None:
            self._tracker.log(metrics, step)

    def on_end(self, summary: dict[str, Any]) -> None:
        """Close the tracker."""
        if self._tracker is not None:
            self._tracker.finish(summary)
