"""summary.json: what a run was and what came out. Written when it starts, and again when it ends, however it ends."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zerokit
from zerokit.config.files import read_mapping, replace_text
from zerokit.state.folder import FOLDER, saved_states

FILES = {
    "metrics": "metrics.jsonl",
    "summary": "summary.json",
    "report": "report.html",
    "config": "config.yaml",
    "logs": "logs",
    "state": "state",
    "model": "model",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "profile": "profile",
}


PREDICTION = "prediction.json"
"""What was predicted, in a run's folder; becomes a part of summary.json."""


def files(run_dir: Path) -> dict[str, str]:
    """Name or folder of each kind of file that the run has left, by its label; the report is about to be written."""
    found = {label: name for label, name in FILES.items() if (run_dir / name).exists()}
    return {**found, "report": FILES["report"]}


def write_summary(run_dir: Path, summary: dict[str, Any]) -> None:
    """Replace summary.json in one move, so that a reader never sees half of it, nor does one after a power loss."""
    text = json.dumps(_plain(summary), indent=2, allow_nan=False, default=str) + "\n"
    replace_text(run_dir / "summary.json", text, durable=True)


def _plain(value: Any) -> Any:
    """The value without numbers that JSON cannot hold: NaN and the infinities become null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The summary in a run's folder; empty where there is none, and with a warning where it cannot be read."""
    return read_mapping(run_dir / "summary.json")


def has_ended(run_dir: Path) -> bool:
    """Whether rank 0 has written down that the run ended as it should: by its last step, or for a signal."""
    return read_summary(run_dir).get("status") in ("finished", "interrupted")


def earlier_attempts(run_dir: Path) -> list[dict[str, Any]]:
    """How the attempts before this one ended: those whose states it can go on from, and after which a launcher has
    started the workers again."""
    last = read_summary(run_dir)
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if not last or not (again or saved_states(run_dir / FOLDER)):
        return []
    told = {key: last.get(key) for key in ("status", "error", "world_size", "started", "resumed_from", "steps")}
    if told["status"] == "running":  # nobody was left to write it down
        told |= {"status": "failed", "error": "it ended without a word (killed?)"}
    return [*last.get("attempts", []), told]


def predicted_facts(run_dir: Path) -> dict[str, Any]:
    """What was predicted for the run before it started; empty where nothing was."""
    return read_mapping(run_dir / PREDICTION)


def first_facts(config: dict[str, Any], world: int) -> dict[str, Any]:
    """What is known before the run starts."""
    return {
        "status": "running",
        "error": None,
        "steps": 0,
        "world_size": world,
        "zero": {"stage": config["zero"]["stage"]},
        "precision": config["precision"]["name"],
        "command": command(),
        "host": platform.node(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": {"python": platform.python_version(), "torch": version("torch"), "zerokit": zerokit.__version__},
        "predicted_gib": None,
    }


def command(argv: list[str] | None = None) -> str:
    """The command line that started this process, or the one given, as one can type it again."""
    program, *words = sys.argv if argv is None else argv
    path = Path(program)
    if path.name == "__main__.py":
        return shlex.join(["python", "-m", path.parent.name, *words])
    return shlex.join([*(["python", program] if path.suffix == ".py" else [path.name]), *words])


def commit() -> str | None:
    """The git commit of the checkout that zerokit runs from; None if it is installed from a wheel."""
    root = Path(zerokit.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
