"""Out of memory: what a rank held by kind, and which options would make it fit, cheapest first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from zerokit.config.checks import allowed_stages
from zerokit.config.schema import Config
from zerokit.record.metrics import format_bytes
from zerokit.train.trainer import Trainer
from zerokit.zero.engine import Engine
from zerokit.zero.placement import STAGES, Stage
from zerokit.zero.storage import Storage

SIGNS = re.compile(r"CUDA out of memory|HIP out of memory|CUDA error: out of memory|DefaultCPUAllocator")
UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
SIZE = r"([\d.]+) (bytes|KiB|MiB|GiB)"
FRAGMENTED = 256 << 20
"""Bytes reserved but not allocated from which on a change of the allocator is worth a word."""

KEPT_BY_FULL, KEPT_BY_SELECTIVE = 2 / 34, 22 / 34
"""Of the 34 bytes per token and width that a transformer block keeps (Korthikanti et al. 2022, arXiv 2205.05198, the
attention's matrix left out): full keeps the block's input, selective also the outputs of products and attention."""

ON_ACTIVATIONS = ("batch", "checkpointing", "precision")
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
    """kind: those of one kind exclude each other. words: what to type. cost: what it takes instead.

    saves: bytes per rank; where `exact` is false, at most those.
    """

    kind: str
    words: str
    saves: float
    exact: bool
    cost: str


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


def explained(error: Exception, cfg: Config, trainer: Trainer | None) -> Exception:
    """The error itself or, if memory ran out, one of torch's type that says what was held and what would help."""
    if not (
        isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and SIGNS.search(str(error)))
    ):
        return error
    shortage = read_shortage(str(error))
    if trainer is None:
        return torch.OutOfMemoryError(f"{_first_line(shortage)} It was not enough for the model's states.\n{_EARLY}")
    held = held_bytes(trainer)
    remedies = list(find_remedies(cfg, trainer, held, shortage))
    return torch.OutOfMemoryError("\n".join(_text(shortage, held, remedies)))


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
    """Bytes by kind at the peak; `activations` is what is neither state nor buffer."""
    held = trainer.engine.memory()
    return held | {"activations": max(0, trainer.peak_bytes() - sum(held.values()))}


def find_remedies(cfg: Config, trainer: Trainer, held: dict[str, int], shortage: Shortage) -> Iterator[Remedy]:
    """Options that save memory, by rising cost in speed; those that change the numbers come last."""
    if shortage.others:
        yield Remedy("others", "(end the GPU's other processes)", shortage.others, True, "nothing")
    if shortage.reserved >= FRAGMENTED:
        yield Remedy("allocator", "PYTORCH_ALLOC_CONF=expandable_segments:True", shortage.reserved, False, "nothing")
    yield from _stages(cfg, trainer.engine)
    yield from _batches(cfg, trainer, held["activations"])
    yield from _checkpoints(cfg, trainer.engine, held["activations"])
    if cfg.precision.name == "fp32":
        yield Remedy("precision", "precision=bf16", held["activations"] / 2, False, "numbers are rounded")


def _stages(cfg: Config, engine: Engine) -> Iterator[Remedy]:
    now, stage = sum(engine.memory().values()), engine.stage
    allowed = allowed_stages(cfg)
    for number, other in STAGES.items():
        if number > cfg.zero.stage and (allowed is None or number in allowed) and engine.comm.world > 1:
            saves = now - sum(memory_at(engine, other, cfg.zero.prefetch).values())
            if saves > 0:
                yield Remedy("stage", f"zero=stage{number}", saves, True, _cost(stage, other))


def memory_at(engine: Engine, stage: Stage, prefetch: int) -> dict[str, int]:
    """Bytes by kind that a rank would hold at another stage, buffers of collectives included; nothing is allocated."""
    units = [replace(unit, slot=None, weight=None, shard=None, gradient=None, extra=None) for unit in engine.units]
    storage = Storage(
        units,
        stage.on(engine.comm.mesh),
        engine.storage.dtypes,
        engine.storage.states.rules,
        engine.comm.mesh,
        torch.device("meta"),
        prefetch + 1,
    )
    storage.allocate_wires()
    return storage.memory()


def _cost(now: Stage, other: Stage) -> str:
    if other.parameter.divided and not now.parameter.divided:
        return "weights are gathered for every use"
    shards = other.gradient.divided and not now.gradient.divided
    return "a reduction per micro-batch" if shards else "hardly anything"


def _batches(cfg: Config, trainer: Trainer, activations: int) -> Iterator[Remedy]:
    """Smaller micro-batches at the same global batch, the largest that divides the present one."""
    micro, accumulation = trainer.batch.micro, trainer.batch.accumulation
    smaller = next((part for part in range(micro // 2, 0, -1) if micro % part == 0), None)
    if smaller is not None:
        words = f"batch.micro={smaller}"
        if cfg.batch.global_ is None or cfg.batch.accumulation is not None:
            words += f" batch.accumulation={accumulation * micro // smaller}"
        yield Remedy("batch", words, activations * (1 - smaller / micro), False, "smaller products, more of them")


def _checkpoints(cfg: Config, engine: Engine, activations: int) -> Iterator[Remedy]:
    name, options, blocks = cfg.checkpointing.name, cfg.checkpointing.options, len(engine.blocks)
    if blocks < 2 or name not in ("none", "every_k", "selective"):
        return
    now = {"none": 1.0, "selective": KEPT_BY_SELECTIVE}[options.others if name == "every_k" else name]
    others = []
    if name == "every_k":
        now, selective = (_kept_by_every_k(options.k, kept) for kept in (now, KEPT_BY_SELECTIVE))
        others = [("checkpointing.others=selective", selective, "recomputes what is cheap")]
    elif name == "none":
        others = [("checkpointing=selective", KEPT_BY_SELECTIVE, "recomputes what is cheap")]
    others.append(("checkpointing=full", KEPT_BY_FULL + now / blocks, "a third more arithmetic"))
    for words, kept, cost in others:
        if kept < now:
            yield Remedy("checkpointing", words, activations * (1 - kept / now), False, cost)


def _kept_by_every_k(k: int, others: float) -> float:
    return (KEPT_BY_FULL + (k - 1) * others) / k


def enough_together(remedies: list[Remedy], held: dict[str, int], missing: float) -> list[Remedy]:
    """The first remedies that save `missing` bytes together, the strongest of each kind; empty if all do not."""
    strongest = {remedy.kind: remedy for remedy in remedies}
    chosen, states, kept = [], 0.0, 1.0  # kept: share of the activations that is left
    for remedy in strongest.values():
        chosen.append(remedy)
        if remedy.kind in ON_ACTIVATIONS:
            kept *= 1 - remedy.saves / max(1, held["activations"])
        else:
            states += remedy.saves
        if states + held["activations"] * (1 - kept) >= missing:
            return chosen
    return []


# -- words -------------------------------------------------------------------------------------------------------------


def _text(shortage: Shortage, held: dict[str, int], remedies: list[Remedy]) -> list[str]:
    kinds = ", ".join(f"{LABELS[kind]} {format_bytes(count)}" for kind, count in held.items())
    lines = [f"{_first_line(shortage)} This rank held at its peak: {kinds}.{_advice(shortage, held, remedies)}"]
    if remedies:
        width = max((len(r.words) for r in remedies if len(r.words) <= MAX_WORDS), default=0)
        lines.append("What saves memory on a rank, cheapest first (* may be enough alone):")
        lines += [_line(remedy, shortage, width) for remedy in remedies]
    return lines


def _advice(shortage: Shortage, held: dict[str, int], remedies: list[Remedy]) -> str:
    if shortage.missing is None:
        return ""
    alone = next((remedy for remedy in remedies if remedy.saves >= shortage.missing), None)
    if alone is not None:
        return f" The cheapest option that may be enough: {alone.words}"
    together = enough_together(remedies, held, shortage.missing)
    return f" May be enough together: {' '.join(remedy.words for remedy in together)}" if together else ""


def _first_line(shortage: Shortage) -> str:
    if shortage.wanted is None:
        return "Out of memory."
    free = "" if shortage.free is None else f", {format_bytes(shortage.free)} were free"
    whole = "" if shortage.capacity is None else f" of {format_bytes(shortage.capacity)}"
    return f"Out of memory: {format_bytes(shortage.wanted)} were asked for{free}{whole}."


def _line(remedy: Remedy, shortage: Shortage, width: int) -> str:
    enough = shortage.missing is not None and remedy.saves >= shortage.missing
    size = format_bytes(remedy.saves)
    return f"{'*' if enough else ' '} {remedy.words:<{width}}  {' ' if remedy.exact else '≤'} {size:>8}  {remedy.cost}"
