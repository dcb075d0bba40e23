"""The tracker for Weights & Biases. The first failure of any kind turns it off with one warning."""

from __future__ import annotations

import logging
import netrc
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from zerokit.tracker._base import RunInfo

log = logging.getLogger(__name__)

# Set before wandb is imported: no messages on the terminal, and no reports of errors to its makers (without a network,
# these alone delay the end of the process by 12 s).
QUIET = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
MODES = ("online", "offline", "disabled")


class WandbTracker:
    """Shows a run in W&B. No method raises."""

    def __init__(self, options: Any, run: RunInfo) -> None:
        self._options = options
        self._info = run
        self._run: Any = None
        self._guard("start", self._start)
        self.id: str | None = run.id if self._run is None else self._run.id
        """Of the run in W&B."""
        online = getattr(self._run, "offline", True) is False
        self.url: str | None = self._run.url if online else None
        """Of its page there; None where it is recorded offline."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Show the metrics of one step; `trainer/step` is added."""
        if self._run is not None:
            self._guard("log", lambda: self._run.log({**metrics, "trainer/step": step}, step=step))

    def finish(self, summary: dict[str, Any]) -> None:
        """Record the figures of the summary and wait for uploads, at most `finish_timeout` seconds."""
        if self._run is not None:
            self._guard("finish", lambda: self._finish(summary))
        self._run = None

    def _guard(self, action: str, call: Callable[[], None]) -> None:
        # The tracker is a view of metrics.jsonl: whatever wandb raises must not end the training.
        try:
            call()
        except Exception as error:
            self._run = None
            log.warning("wandb is off for the rest of this run (%s: %s); metrics.jsonl goes on.", action, _line(error))

    def _start(self) -> None:
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        import wandb

        mode = self._mode(wandb)
        if mode == "disabled":
            return
        try:
            self._run = self._init(wandb, mode)
        except Exception as error:
            if mode == "offline":
                raise
            log.warning("wandb records this run offline, upload it with `wandb sync` (%s).", _line(error))
            self._run = self._init(wandb, "offline")
        _define_axes(self._run)

    def _mode(self, wandb: Any) -> str:
        if self._options.mode != "auto":
            return self._options.mode
        mode = os.environ.get("WANDB_MODE", "")
        if mode in MODES:
            return mode
        return "online" if has_key(wandb) else "offline"

    def _init(self, wandb: Any, mode: str) -> Any:
        info = self._info
        return wandb.init(
            project=self._options.project or os.environ.get("WANDB_PROJECT") or "zerokit",
            entity=self._options.entity,
            dir=str(info.directory),
            config=info.config,
            id=info.id,
            resume=None if info.id is None else "allow",
            name=info.name or info.directory.name,
            group=info.group,
            job_type=info.job_type,
            tags=info.tags,
            mode=mode,
            settings=self._settings(wandb),
        )

    def _settings(self, wandb: Any) -> Any:
        wait = self._options.init_timeout
        wanted = {
            "silent": True,
            "console": "off",
            "reinit": "create_new",
            "init_timeout": wait,
            "login_timeout": wait,
            "x_service_wait": wait,
            "finish_timeout": self._options.finish_timeout,
            "x_transaction_log_flush_interval": 1.0,
        }
        known = wandb.Settings.model_fields
        return wandb.Settings(**{key: value for key, value in wanted.items() if key in known})

    def _finish(self, summary: dict[str, Any]) -> None:
        self._run.summary.update({f"final/{key}": value for key, value in _flat(summary).items()})
        self._run.finish(exit_code=0 if summary.get("status") == "finished" else 1)


def _define_axes(run: Any) -> None:
    """Offer optimizer steps (the default) and tokens as x axes of every chart."""
    run.define_metric("trainer/step")
    run.define_metric("trainer/tokens")
    run.define_metric("*", step_metric="trainer/step")


def has_key(wandb: Any) -> bool:
    """Whether W&B would find credentials, so that it never asks for them on the terminal."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    server = wandb.setup().settings.base_url
    hosts = {urlsplit(server).netloc}
    if server == wandb.Settings().base_url:
        hosts.add("api.wandb.ai")
    files = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    return any(_in_netrc(os.path.expanduser(file), hosts) for file in files)


def _in_netrc(path: str, hosts: set[str]) -> bool:
    try:
        entries = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError):
        return False
    return any(host in entries.hosts for host in hosts)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the scalars of nested dicts, keys joined by dots; lists and long texts are left to summary.json."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= 200):
            flat[f"{prefix}{key}"] = value
    return flat


def _line(error: Exception) -> str:
    """Return an error as one short line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:160]}" if first else type(error).__name__
