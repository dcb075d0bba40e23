"""The worker of a run, whose errors of memory predictions explain; the launcher starts it by name."""

from __future__ import annotations

from typing import Any

from zerokit.train import worker
from zerokit.train.out_of_memory import Advice


def run(config: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """As `zerokit.train.worker.run`, with advice."""
    return worker.run(config, run_dir, _advise)


def _advise(*arguments: Any) -> Advice:
    from zerokit.estimate.remedies import advise  # what a worker needs only then would take time at every start

    return advise(*arguments)
