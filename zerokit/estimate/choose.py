"""`zero=auto`: the fastest of the configurations that are predicted to fit."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from zerokit.config import registry
from zerokit.config.batch import Batch, resolve_batch
from zerokit.config.errors import ConfigError
from zerokit.config.registry import Choice as Component
from zerokit.config.schema import BatchConfig, Config
from zerokit.estimate.compare import limit, possible_stages, with_stage
from zerokit.estimate.prediction import Prediction
from zerokit.estimate.simulate import Simulator
from zerokit.record.hardware import Hardware
from zerokit.record.metrics import format_bytes, format_seconds

POLICIES = (
    ("none", {}),
    ("selective", {}),
    ("every_k", {"k": 4, "others": "selective"}),
    ("every_k", {"k": 2, "others": "selective"}),
    ("full", {}),
)
"""Checkpointings that are tried, with options. `every_k` that keeps all of the others is slower than `selective`."""
MICRO_BATCHES = 3
"""Sizes of the micro-batch that are tried at most, the largest first."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A configuration and what is predicted for it."""

    cfg: Config
    prediction: Prediction

    def __str__(self) -> str:
        p = self.prediction
        return f"stage {p.stage}, checkpointing {_words(self.cfg.checkpointing)}, {p.accumulation} x {p.micro} samples"


@dataclass(frozen=True)
class Choice:
    """Candidates that fit, the fastest first, of equally fast ones the smallest; and how many were looked at.

    limit: bytes that a rank may take.
    """

    fitting: list[Candidate]
    looked: int
    limit: int

    def why(self, chosen: Candidate) -> list[str]:
        """Two lines on a candidate that is tried."""
        p = chosen.prediction
        memory = f"{format_bytes(p.peak)} of {format_bytes(self.limit)}"
        later = self.fitting[self.fitting.index(chosen) + 1 :][:1]
        following = f"then {later[0]} ({format_seconds(later[0].prediction.seconds)})" if later else "no other is left"
        return [
            f"zero=auto: {chosen}; {memory}, {format_seconds(p.seconds)}.",
            f"The fastest of {len(self.fitting)} in {self.looked} that fit; {following}.",
        ]

    def after(self, failed: Candidate) -> Candidate | None:
        """The next one to try when `failed` has run out of memory: the fastest of those that need clearly less."""
        later = self.fitting[self.fitting.index(failed) + 1 :]
        return next((c for c in later if c.prediction.peak < 0.97 * failed.prediction.peak), None)


def choose(cfg: Config, world: int, hardware: Hardware) -> Choice:
    """Look at every stage, checkpointing and a few micro-batches of `cfg` on `world` ranks.

    The checkpointing of the configuration is among them; a given micro-batch is kept. One rank has one stage.

    Raises:
        ConfigError: nothing is predicted to fit, or the model cannot be predicted.
    """
    plain = replace(cfg, zero=replace(cfg.zero, auto=False))
    simulator = Simulator(plain, hardware)
    looked = [candidate for batch in batches(cfg, world) for candidate in _of_batch(plain, world, batch, simulator)]
    bound = limit(cfg, hardware, world)
    fitting = [c for c in looked if c.prediction.peak <= bound]
    fitting.sort(key=lambda c: (round(c.prediction.seconds, 4), c.prediction.peak))
    while fitting:  # the first one exactly
        fitting[0] = Candidate(fitting[0].cfg, simulator.predict(fitting[0].cfg, world))
        if fitting[0].prediction.peak <= bound:
            return Choice(fitting, len(looked), bound)
        del fitting[0]
    least = min(looked, key=lambda c: c.prediction.peak)
    raise ConfigError(
        f"zero=auto: nothing is predicted to fit. The least is {format_bytes(least.prediction.peak)} ({least}), and a "
        f"rank may take {format_bytes(bound)}: use more processes or a smaller model."
    )


def _of_batch(cfg: Config, world: int, batch: Batch, simulator: Simulator) -> list[Candidate]:
    """Every stage and checkpointing with one cut of the batch. What a checkpointing changes is predicted at one stage
    and added to the others."""
    stages = tuple(possible_stages(cfg)) if world > 1 else (0,)  # one rank has one stage
    checkpointings = {_words(each): each for each in (cfg.checkpointing, *_policies())}
    first, *policies = checkpointings
    configs = {(s, name): _variant(cfg, s, checkpointings[name], batch) for s in stages for name in checkpointings}
    made = {(stage, first): simulator.predict(configs[stage, first], world) for stage in stages}
    last = stages[-1]
    made |= {(last, name): simulator.predict(configs[last, name], world) for name in policies}
    for stage in stages[:-1]:
        made |= {(stage, name): _shifted(made[stage, first], made[last, first], made[last, name]) for name in policies}
    return [Candidate(configs[key], prediction) for key, prediction in made.items()]


def _words(checkpointing: Component) -> str:
    options = (f"{field.name}={getattr(checkpointing.options, field.name)}" for field in fields(checkpointing.options))
    return " ".join((checkpointing.name, *options))


def _policies() -> list[Component]:
    return [Component(name, registry.options_type("checkpointing", name)(**given)) for name, given in POLICIES]


def _shifted(base: Prediction, before: Prediction, after: Prediction) -> Prediction:
    """`base` changed by what lies between `before` and `after`."""
    memory = {kind: max(0, size + after.memory[kind] - before.memory[kind]) for kind, size in base.memory.items()}
    seconds = base.seconds + after.seconds - before.seconds
    return replace(base, checkpointing=after.checkpointing, memory=memory, seconds=seconds)


def batches(cfg: Config, world: int) -> list[Batch]:
    """The batch cut into micro-batches of other sizes, the largest first; as it is, if its size is given."""
    own = resolve_batch(cfg.batch, world)
    if cfg.batch.micro is not None:
        return [own]
    samples = own.micro * own.accumulation
    sizes = [size for size in range(samples, 0, -1) if samples % size == 0]
    halves = [size for size in sizes if size & (size - 1) == 0] or sizes
    tried = sorted({sizes[0], *halves[: MICRO_BATCHES - 1], sizes[-1]}, reverse=True)
    return [Batch(own.global_, size, samples // size) for size in tried]


def _variant(cfg: Config, stage: int, checkpointing: Component, batch: Batch) -> Config:
    cut = BatchConfig(batch.global_, batch.micro, batch.accumulation)
    return replace(with_stage(cfg, stage), checkpointing=checkpointing, batch=cut)
