"""Predicted memory of cells, from a process of its own: it may use what no cell must inherit, such as CUDA."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from zerokit.config.errors import ConfigError
from zerokit.config.schema import Config
from zerokit.launch.parent import end_with
from zerokit.record.metrics import GIB, format_bytes, shared_unit
from zerokit.sweep.slots import Slot

if TYPE_CHECKING:
    from zerokit.estimate.choose import Choice


@dataclass(frozen=True)
class Forecast:
    """What is predicted of a cell; `error` says why nothing is."""

    gib: float | None = None
    """Peak memory of a rank."""
    limit_gib: float | None = None
    """Memory that a rank may take."""
    error: str | None = None
    choice: Choice | None = None
    """What `zero=auto` chooses."""

    @property
    def too_large(self) -> str | None:
        """Why the cell does not fit, or None."""
        if self.gib is None or self.limit_gib is None or self.gib <= self.limit_gib:
            return None
        sizes = (self.gib * GIB, self.limit_gib * GIB)
        needed, limit = (format_bytes(size, shared_unit(sizes)) for size in sizes)
        return f"predicted {needed} of a rank, which may take {limit} (estimate.memory_gib)"


class Predictor:
    """Makes predictions one by one. The process starts with the first and ends with this one.

    Args:
        slot: what a cell may use of the machine.
    """

    def __init__(self, slot: Slot) -> None:
        fork = multiprocessing.get_context("fork")
        self._pipe, theirs = fork.Pipe()
        self._process = fork.Process(target=_serve, args=(self._pipe, theirs, slot, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()

    def forecast(self, config: Config) -> Forecast:
        """Return what is predicted for a configuration."""
        try:
            self._pipe.send(config)
            return self._pipe.recv()
        except (EOFError, OSError):
            return Forecast(error="the process that predicts has ended")

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()


def _serve(asking: Connection, pipe: Connection, slot: Slot, parent: int) -> None:
    asking.close()  # else this copy of the other end keeps the pipe open for ever
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # that of the sweep ends its cells
    end_with(parent, signal.SIGTERM)
    Slot(gpus=slot.gpus).enter()
    sources: dict[str, Any] = {}
    with suppress(EOFError, ConnectionError):  # nobody asks any more
        while True:
            pipe.send(_forecast(pipe.recv(), sources))


def _forecast(config: Config, simulators: dict[str, Any]) -> Forecast:
    from zerokit.estimate.choose import choose
    from zerokit.estimate.compare import limit
    from zerokit.estimate.machine import default_world, hardware_of
    from zerokit.estimate.simulate import Simulator

    try:
        values = config.to_dict()
        key = json.dumps([values["data"], values["train"]["seed"], values["launch"], values["estimate"]], default=str)
        if key not in simulators:
            simulators[key] = Simulator(config, hardware_of(config))
        simulator = simulators[key]
        world = default_world(config)
        choice = choose(config, world, simulator.hardware) if config.zero.auto else None
        made = simulator.predict(config, world) if choice is None else choice.fitting[0].prediction
        return Forecast(made.predicted_gib, limit(config, simulator.hardware, world) / GIB, choice=choice)
    except ConfigError as error:
        return Forecast(error=str(error))
    except Exception as error:  # handed on: the cell is run without a prediction, which the table's notes say
        return Forecast(error=f"{type(error).__name__}: {error}".splitlines()[0])
