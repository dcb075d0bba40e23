"""Shares of this machine: each cell that runs beside others gets GPUs, or cores, of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from zerokit.config.errors import ConfigError


@dataclass(frozen=True)
class Slot:
    """What a cell may use."""

    gpus: tuple[str, ...] | None = None
    """Names of GPUs as CUDA_VISIBLE_DEVICES takes them; None for all that are visible."""
    cores: frozenset[int] | None = None
    """Cores; None for all that this process may use."""

    def enter(self) -> None:
        """Confine this process and those it will start."""
        if self.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        if self.cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)


def divide(parallel: int, gpus: Sequence[str], cores: Sequence[int]) -> list[Slot]:
    """Return `parallel` slots that share no GPU and, where there are enough, no core.

    Raises:
        ConfigError: if there are GPUs, but fewer than slots.
    """
    if parallel == 1:
        return [Slot()]
    if gpus and parallel > len(gpus):
        raise ConfigError(
            f"sweep.parallel={parallel}: each cell needs a GPU of its own, and {len(gpus)} can be seen. "
            "Lower sweep.parallel or set launch.device=cpu."
        )
    return [
        Slot(tuple(_share(gpus, parallel, place)) if gpus else None, frozenset(_share(cores, parallel, place)) or None)
        for place in range(parallel)
    ]


def gpu_names() -> list[str]:
    """Return the names of the visible GPUs as CUDA_VISIBLE_DEVICES takes them, without initialising CUDA."""
    import torch

    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    count = torch.cuda.device_count()
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (listed or [str(place) for place in range(count)])[:count]


def _share(items: Sequence, parts: int, place: int) -> Sequence:
    """Return the part at `place`: neighbours, all parts equally long; with fewer items than parts, one of them."""
    if len(items) < parts:
        return items[place % len(items) : place % len(items) + 1] if items else items
    size = len(items) // parts
    return items[place * size : (place + 1) * size]
