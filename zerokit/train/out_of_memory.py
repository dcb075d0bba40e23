"""Out of memory: what a rank held by kind, and, as predicted, which options would make it fit, cheapest first."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from zerokit.config.schema import Config
from zerokit.record.metrics import format_bytes
from zerokit.train.trainer import Trainer

log = logging.getLogger("zerokit")

SIGNS = re.compile(r"CUDA out of memory|HIP out of memory|CUDA error: out of memory|DefaultCPUAllocator")
UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
SIZE = r"([\d.]+) (bytes|KiB|MiB|GiB)"
FRAGMENTED = 256 << 20
"""Bytes reserved but not allocated from which on a change of the allocator is worth a word."""

MAX_WORDS = 32

LABELS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "buffers": "buffers",
    "activations": "activations and the rest",
}


@dataclass(frozen=True)
class Remedy:
    """words: what to type. saves: bytes per rank, None where it cannot be predicted. cost: what it takes instead."""

    words: str
    saves: float | None
    cost: str


@dataclass(frozen=True)
class Advice:
    """remedies: by rising cost in speed. together: words of those that are enough together; empty if all are not."""

    remedies: list[Remedy] = field(default_factory=list)
    together: tuple[str, ...] = ()


Advise = Callable[[Config, int, float | None], Advice]
"""Called with the configuration, the number of ranks and the bytes that a rank lacks, if they are known."""


@dataclass(frozen=True)
class Shortage:
    """What the allocator says: bytes asked for, free, in all, reserved but not allocated, held by other processes."""

    wanted: float | None
    free: float | None
    capacity: float | None
    reserved: float
    others: float

    @property
    def missing(self) -> float | None:
        """The least that must be saved."""
        return None if self.wanted is None or self.free is None else max(0.0, self.wanted - self.free)


def explained(error: Exception, cfg: Config, trainer: Trainer | None, advise: Advise | None) -> Exception:
    """The error itself or, if memory ran out, one of torch's type that says what was held and, with
    `advise`, what would help."""
    if not (
        isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and SIGNS.search(str(error)))
    ):
        return error
    try:
        return _explained(error, cfg, trainer, advise)
    except Exception:  # what would help must not take the place of what went wrong
        log.warning("no advice on the memory", exc_info=True)
        return error


def _explained(error: Exception, cfg: Config, trainer: Trainer | None, advise: Advise | None) -> Exception:
    shortage = read_shortage(str(error))
    if trainer is None:
        return torch.OutOfMemoryError(f"{_first_line(shortage)} It was not enough for the model's states.\n{_EARLY}")
    held = held_bytes(trainer)
    beside = _beside(shortage)
    missing = None if shortage.missing is None else shortage.missing - sum(remedy.saves for remedy in beside)
    advice = Advice() if advise is None else advise(cfg, trainer.comm.world, missing)
    together = (*(remedy.words for remedy in beside), *advice.together) if advice.together else ()
    return torch.OutOfMemoryError("\n".join(_text(shortage, held, Advice([*beside, *advice.remedies], together))))


_EARLY = "Divide them further: a higher stage (zero=stage3), or more processes."


def read_shortage(text: str) -> Shortage:
    """The figures in the text of torch's error."""

    def find(pattern: str) -> float | None:
        match = re.search(pattern, text)
        return None if match is None else _bytes(match[1], match[2])

    others = re.findall(rf"Process \d+ has {SIZE} memory in use", text)
    return Shortage(
        wanted=find(rf"[Tt]r(?:ied|ying) to allocate {SIZE}"),
        free=find(rf"of which {SIZE} is free"),
        capacity=find(rf"total capacity of {SIZE}"),
        reserved=find(rf"{SIZE} is reserved by PyTorch but unallocated") or 0.0,
        others=sum(_bytes(*found) for found in others),
    )


def _bytes(number: str, unit: str) -> float:
    return float(number) * UNITS[unit]


def held_bytes(trainer: Trainer) -> dict[str, int]:
    """Bytes of the device by kind at the peak; `activations` is what is neither state nor buffer."""
    held = {kind: count for kind, count in trainer.engine.memory().items() if kind in LABELS}
    return held | {"activations": max(0, trainer.peak_bytes() - sum(held.values()))}


def _beside(shortage: Shortage) -> list[Remedy]:
    """What is no option of the run."""
    found = []
    if shortage.others:
        found.append(Remedy("(end the GPU's other processes)", shortage.others, "nothing"))
    if shortage.reserved >= FRAGMENTED:
        found.append(Remedy("PYTORCH_ALLOC_CONF=expandable_segments:True", shortage.reserved, "nothing"))
    return found


# -- words -------------------------------------------------------------------------------------------------------------


def _text(shortage: Shortage, held: dict[str, int], advice: Advice) -> list[str]:
    kinds = ", ".join(f"{LABELS[kind]} {format_bytes(count)}" for kind, count in held.items())
    lines = [f"{_first_line(shortage)} This rank held at its peak: {kinds}.{_summed_up(shortage, advice)}"]
    if advice.remedies:
        width = max((len(r.words) for r in advice.remedies if len(r.words) <= MAX_WORDS), default=0)
        lines.append("What saves memory on a rank, as predicted, cheapest first (* may be enough alone):")
        lines += [_line(remedy, shortage, width) for remedy in advice.remedies]
    return lines


def _summed_up(shortage: Shortage, advice: Advice) -> str:
    alone = next((remedy for remedy in advice.remedies if _is_enough(remedy, shortage)), None)
    if alone is not None:
        return f" The cheapest option that may be enough: {alone.words}"
    return f" May be enough together: {' '.join(advice.together)}" if advice.together else ""


def _is_enough(remedy: Remedy, shortage: Shortage) -> bool:
    return None not in (shortage.missing, remedy.saves) and remedy.saves >= shortage.missing


def _first_line(shortage: Shortage) -> str:
    if shortage.wanted is None:
        return "Out of memory."
    free = "" if shortage.free is None else f", {format_bytes(shortage.free)} were free"
    whole = "" if shortage.capacity is None else f" of {format_bytes(shortage.capacity)}"
    return f"Out of memory: {format_bytes(shortage.wanted)} were asked for{free}{whole}."


def _line(remedy: Remedy, shortage: Shortage, width: int) -> str:
    size = "" if remedy.saves is None else format_bytes(remedy.saves)
    return f"{'*' if _is_enough(remedy, shortage) else ' '} {remedy.words:<{width}}  {size:>8}  {remedy.cost}"
