"""What to do about a run that did not finish, by the words of its error."""

from __future__ import annotations

import re
from typing import Any

RULES = (
    (
        r"out of memory|OutOfMemory|cannot allocate|can't allocate|DefaultCPUAllocator",
        "Give each rank less to hold: a higher stage (zero=stage3), a smaller batch.micro with a larger "
        "batch.accumulation, or checkpointing=full. The end of that rank's log lists what each would save.",
    ),
    (
        r"non-?finite|\bnan\b|\binf\b|overflow|loss scale|skipped",
        "Lower optimizer.lr or lengthen the warm-up; with precision=fp16, try precision=bf16.",
    ),
    (
        r"No space left|disk quota",
        "Free space on the disk of the output folder, or choose another with hydra.run.dir=PATH.",
    ),
    (
        r"timed? ?out|connection (closed|reset|refused)|NCCL|gloo",
        "One rank stopped or was too slow: look at the end of each rank's log. launch.timeout_s sets how long "
        "ranks wait.",
    ),
)


def advice(summary: dict[str, Any]) -> str:
    """Return what a person can do next, for the summary of a failed or interrupted run."""
    if summary.get("status") == "interrupted":
        if summary.get("state"):
            return "The same command goes on from the saved state, with hydra.run.dir set to the folder of this run."
        return "What was logged until then is kept. The same command starts the run again."
    error = str(summary.get("error") or "")
    for pattern, text in RULES:
        if re.search(pattern, error, re.IGNORECASE):
            return text
    return "The full traceback is in the logs below."
