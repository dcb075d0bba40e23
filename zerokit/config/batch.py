"""The batch triple: samples per step, per forward pass, and passes per step."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.errors import ConfigError
from zerokit.config.schema import BatchConfig


@dataclass(frozen=True)
class Batch:
    """A resolved batch: global_ == micro * accumulation * number of processes."""

    global_: int
    """Samples per optimizer step over all processes."""
    micro: int
    """Samples per forward pass of one process."""
    accumulation: int
    """Forward and backward passes of one process per optimizer step."""


def resolve_batch(batch: BatchConfig, world: int) -> Batch:
    """Fill in what the configuration leaves open, by DeepSpeed's rule, for `world` processes.

    Accumulation is 1 where neither it nor the two others fix it.

    Raises:
        ConfigError: if neither global nor micro is given, or they do not divide exactly.
    """
    total, micro, accumulation = batch.global_, batch.micro, batch.accumulation
    if total is None and micro is None:
        raise ConfigError("batch: give batch.global or batch.micro; accumulation alone does not fix the batch.")
    if total is None:
        accumulation = accumulation or 1
        return Batch(micro * accumulation * world, micro, accumulation)
    if micro is None:
        accumulation = accumulation or 1
        return Batch(total, _divide(total, accumulation, "accumulation", world), accumulation)
    if accumulation is None:
        return Batch(total, micro, _divide(total, micro, "micro", world))
    if micro * accumulation * world != total:
        raise ConfigError(
            f"batch.global={total} does not equal micro * accumulation * processes = "
            f"{micro} * {accumulation} * {world} = {micro * accumulation * world}. Leave one of them out, or change it."
        )
    return Batch(total, micro, accumulation)


def _divide(total: int, factor: int, name: str, world: int) -> int:
    quotient, rest = divmod(total, factor * world)
    if rest or not quotient:
        near = max(1, quotient) * factor * world
        raise ConfigError(
            f"batch.global={total} cannot be divided by {name} * processes = {factor} * {world} = {factor * world}: "
            f"the rest is {rest}. Try batch.global={near}."
        )
    return quotient
