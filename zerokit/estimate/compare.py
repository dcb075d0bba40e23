"""One configuration at every stage, with every checkpointing, on several numbers of ranks."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from zerokit.config import registry
from zerokit.config.batch import resolve_batch
from zerokit.config.checks import allowed_stages
from zerokit.config.registry import Choice
from zerokit.config.schema import BatchConfig, Config
from zerokit.estimate.machine import default_world, hardware_of
from zerokit.estimate.prediction import GIB, Prediction
from zerokit.estimate.simulate import Simulator
from zerokit.record.hardware import Hardware
from zerokit.zero.placement import STAGES

CONTEXT = int(1.5 * GIB)
"""Bytes of a GPU for CUDA's context, kernels and NCCL, as seen beside PyTorch's allocator on 2 x H200 (device_gib in
bench/results)."""
SHARE = 0.95
"""Of the rest; fragmentation takes what is left."""


def possible_stages(cfg: Config) -> list[int]:
    """The stages that the configuration's optimizer works at."""
    return list(allowed_stages(cfg) or STAGES)


def with_stage(cfg: Config, stage: int) -> Config:
    """The configuration at another stage; stage 0 has no groups."""
    size = cfg.zero.shard_size if stage else "all"
    return replace(cfg, zero=replace(cfg.zero, stage=stage, shard_size=size))


def with_checkpointing(cfg: Config, name: str) -> Config:
    """The configuration with another checkpointing and its default options; the same one keeps its own."""
    if cfg.checkpointing.name == name:
        return cfg
    return replace(cfg, checkpointing=Choice(name, registry.options_type("checkpointing", name)()))


def limit(cfg: Config, hardware: Hardware, world: int) -> int:
    """Bytes that a rank may take: what the configuration allows, else what the device has beside what is not predicted.
    Ranks on a CPU share the host's."""
    if cfg.estimate.memory_gib is not None:
        return int(cfg.estimate.memory_gib * GIB)
    if hardware.device == "cpu":
        return int(hardware.memory * SHARE) // min(world, hardware.per_host)
    return int((hardware.memory - CONTEXT) * SHARE)


class Comparison:
    """The tables of `zerokit estimate`. Predictions are made once each, when they are first asked for.

    Every rank keeps the micro-batch and the accumulation that the configuration gives it on its own number of ranks.

    Raises:
        ConfigError: the hardware is unknown, or the configuration cannot be predicted.
    """

    def __init__(self, cfg: Config, hardware: Hardware | None = None):
        self.hardware = hardware or hardware_of(cfg)
        self.timed = cfg.estimate.hardware is not None
        own = default_world(cfg)
        batch = resolve_batch(cfg.batch, own)
        self.worlds = list(dict.fromkeys(cfg.estimate.world)) or [own]
        self.world = own if own in self.worlds else max(self.worlds, key=lambda world: (min(world, own), -world))
        self.cfg = replace(cfg, batch=BatchConfig(None, batch.micro, batch.accumulation))
        self._simulator = Simulator(self.cfg, self.hardware)
        self._made: dict[tuple[int, str, int], Prediction] = {}

    def at(self, stage: int, world: int, checkpointing: str | None = None) -> Prediction:
        """The prediction at a stage on `world` ranks."""
        name = checkpointing or self.cfg.checkpointing.name
        key = (stage, name, world)
        if key not in self._made and world == 1 and stage > 0:  # one rank divides nothing
            self._made[key] = replace(self.at(0, world, name), stage=stage)
        elif key not in self._made:
            self._made[key] = self._simulator.predict(with_checkpointing(with_stage(self.cfg, stage), name), world)
        return self._made[key]

    @property
    def counted(self) -> str:
        """What throughput counts: tokens or samples."""
        return self._simulator.counted

    @cached_property
    def chosen(self) -> Prediction:
        """The configuration as it is."""
        return self.at(self.cfg.zero.stage, self.world)

    @cached_property
    def stages(self) -> list[Prediction]:
        """Every stage."""
        return [self.at(stage, self.world) for stage in possible_stages(self.cfg)]

    @cached_property
    def policies(self) -> list[Prediction]:
        """Every checkpointing, those that recompute nothing first."""
        return [self.at(self.cfg.zero.stage, self.world, name) for name in registry.names("checkpointing")]

    @cached_property
    def by_world(self) -> list[list[Prediction]]:
        """Every stage, on every number of ranks."""
        return [[self.at(stage, world) for world in self.worlds] for stage in possible_stages(self.cfg)]

    def to_dict(self) -> dict[str, Any]:
        """All predictions as plain values."""
        made = [*self.stages, *self.policies, *(cell for row in self.by_world for cell in row)]
        return {
            "model": self.cfg.model.name,
            "hardware": self.hardware.name,
            "limit_bytes": limit(self.cfg, self.hardware, self.world),
            "predictions": [prediction.to_dict() for prediction in dict.fromkeys(made)],
        }
