"""All examinations in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from zerokit.doctor.gpus import gpus, links
from zerokit.doctor.host import disk, host
from zerokit.doctor.line import Line, bad
from zerokit.doctor.software import environment, software, wandb_state

SECTIONS: dict[str, Callable[[Path, bool], Iterator[Line]]] = {
    "Software": lambda folder, quick: software(),
    "GPUs": lambda folder, quick: gpus(),
    "Links": lambda folder, quick: links(quick),
    "Host": lambda folder, quick: host(quick),
    "Disk": lambda folder, quick: disk(folder, quick),
    "Tracking": lambda folder, quick: wandb_state(),
    "Environment": lambda folder, quick: environment(),
}


def examine(folder: Path, quick: bool) -> Iterator[tuple[str, Line]]:
    """Yield each finding with its section, as it is found. One examination that fails does not end the others."""
    for title, section in SECTIONS.items():
        try:
            for line in section(folder, quick):
                yield title, line
        except (RuntimeError, OSError) as error:  # a broken driver raises where it is asked
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            yield title, bad(title, text[:160], "this part could not be examined")
