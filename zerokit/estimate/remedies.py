"""What would have let a run that ran out of memory fit, as predictions say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from zerokit.config import registry
from zerokit.config.batch import resolve_batch
from zerokit.config.registry import Choice
from zerokit.config.schema import BatchConfig, Config
from zerokit.estimate.compare import possible_stages, with_checkpointing, with_stage
from zerokit.estimate.machine import gpus, hardware_of
from zerokit.estimate.simulate import Simulator
from zerokit.train.out_of_memory import Advice, Remedy
from zerokit.zero.placement import STAGES

log = logging.getLogger(__name__)

Change = Callable[[Config], Config]


@dataclass(frozen=True)
class Option:
    """kind: those of one kind exclude each other. words: what to type. cost: what it takes instead of memory."""

    kind: str
    words: str
    cost: str
    change: Change


def advise(cfg: Config, world: int, missing: float | None) -> Advice:
    """Options that save memory, by rising cost in speed, those that change the numbers last; and which are predicted to
    be enough together where `missing` more bytes are needed.

    Where nothing can be predicted, as of a model that needs the values of tensors, all are named without figures.
    """
    options = list(_options(cfg, world))
    try:
        return _predicted(cfg, world, missing, options)
    except Exception:  # the error that is explained counts, whatever is wrong with its explanation
        log.warning("what options would save could not be predicted", exc_info=True)
        return Advice([Remedy(option.words, None, option.cost) for option in options])


def _predicted(cfg: Config, world: int, missing: float | None, options: list[Option]) -> Advice:
    simulator = Simulator(cfg, hardware_of(cfg))

    def saved(*changed: Option) -> int:
        other = cfg
        for option in changed:
            other = option.change(other)
        return now - simulator.predict(other, world).peak

    now = simulator.predict(cfg, world).peak
    found = {option: size for option in options if (size := saved(option)) > 0}
    remedies = [Remedy(option.words, size, option.cost) for option, size in found.items()]
    strongest = {option.kind: option for option in sorted(found, key=found.get)}
    chosen: list[Option] = []
    for kind in dict.fromkeys(option.kind for option in found):
        chosen.append(strongest[kind])
        if missing is not None and saved(*chosen) >= missing:
            return Advice(remedies, tuple(option.words for option in chosen))
    return Advice(remedies)


def _options(cfg: Config, world: int) -> Iterator[Option]:
    yield from _stages(cfg, world)
    yield from _batches(cfg, world)
    yield from _checkpointings(cfg)
    if gpus(cfg) and cfg.zero.offload == "none":
        states = replace(cfg.zero, offload="states")
        yield Option("offload", "zero.offload=states", "states travel to the host and back behind the forward pass",
                     lambda c: replace(c, zero=states))  # fmt: skip
    yield from _formats(cfg)


def _formats(cfg: Config) -> Iterator[Option]:
    """What changes the numbers."""
    if cfg.precision.name == "fp32":
        bf16 = Choice("bf16", registry.options_type("precision", "bf16")())
        yield Option("precision", "precision=bf16", "numbers are rounded", lambda c: replace(c, precision=bf16))
    for moments in ("bf16", "int8") if getattr(cfg.optimizer.options, "moments", None) == "fp32" else ():
        small = Choice(cfg.optimizer.name, replace(cfg.optimizer.options, moments=moments))
        yield Option("moments", f"optimizer.moments={moments}", "moments are rounded",
                     lambda c, small=small: replace(c, optimizer=small))  # fmt: skip
    if getattr(cfg.precision.options, "master", "split24") != "split24":
        master = Choice(cfg.precision.name, replace(cfg.precision.options, master="split24"))
        yield Option("master", "precision.master=split24", "master weights have 24 bits",
                     lambda c: replace(c, precision=master))  # fmt: skip


def _stages(cfg: Config, world: int) -> Iterator[Option]:
    for number in possible_stages(cfg):
        if number > cfg.zero.stage and world > 1:
            cost = _cost(cfg.zero.stage, number)
            yield Option("stage", f"zero=stage{number}", cost, lambda c, number=number: with_stage(c, number))


def _cost(now: int, other: int) -> str:
    before, after = STAGES[now], STAGES[other]
    if after.parameter != before.parameter:
        return "weights are gathered for every use"
    shards = after.gradient.divided and not before.gradient.divided
    return "a reduction per micro-batch" if shards else "hardly anything"


def _batches(cfg: Config, world: int) -> Iterator[Option]:
    """Smaller micro-batches at the same global batch, the largest that divides the present one."""
    batch = resolve_batch(cfg.batch, world)
    smaller = next((part for part in range(batch.micro // 2, 0, -1) if batch.micro % part == 0), None)
    if smaller is None:
        return
    accumulation = batch.accumulation * batch.micro // smaller
    words = f"batch.micro={smaller}"
    if cfg.batch.global_ is None or cfg.batch.accumulation is not None:
        words += f" batch.accumulation={accumulation}"
    cut = BatchConfig(batch.global_, smaller, accumulation)
    yield Option("batch", words, "smaller products, more of them", lambda c: replace(c, batch=cut))


def _checkpointings(cfg: Config) -> Iterator[Option]:
    name, options = cfg.checkpointing.name, cfg.checkpointing.options
    if name == "every_k" and options.others == "none":
        others = Choice(name, replace(options, others="selective"))
        yield _checkpointing("checkpointing.others=selective", "recomputes what is cheap", others)
    if name == "none":
        yield _checkpointing("checkpointing=selective", "recomputes what is cheap", _policy(cfg, "selective"))
    if name in ("none", "selective", "every_k"):
        yield _checkpointing("checkpointing=full", "a third more arithmetic", _policy(cfg, "full"))


def _policy(cfg: Config, name: str) -> Choice:
    return with_checkpointing(cfg, name).checkpointing


def _checkpointing(words: str, cost: str, choice: Choice) -> Option:
    return Option("checkpointing", words, cost, lambda c: replace(c, checkpointing=choice))
