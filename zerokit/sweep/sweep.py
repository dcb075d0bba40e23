"""A sweep of zerokit's launcher: the cells it has been given, run one after another or side by side."""

from __future__ import annotations

import importlib
import logging
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, flag_override, open_dict

from zerokit.config.compose import to_config
from zerokit.config.errors import ConfigError
from zerokit.config.host import visible_cores
from zerokit.launch import WORKER
from zerokit.launch.environment import joined_rank
from zerokit.record.summary import command, predicted_facts, read_summary
from zerokit.report import try_report
from zerokit.sweep import manifest
from zerokit.sweep.cell import Cell, State, label_all, outcome
from zerokit.sweep.predict import Forecast, Predictor
from zerokit.sweep.process import CellProcess
from zerokit.sweep.slots import Slot, divide, gpu_names
from zerokit.sweep.table import SweepTable
from zerokit.sweep.task import Task, grouped

REFRESH_S = 0.5
GRACE_S = 20.0
"""Seconds that interrupted cells have to end before they are killed."""


class Sweep:
    """Made once for each command; a searching sweeper launches several batches of cells."""

    def __init__(self, context: HydraContext, task: Any, config: DictConfig) -> None:
        self._context, self._config = context, config
        self._task: Task = task
        self.folder = Path(config.hydra.sweep.dir).resolve()
        self.cells: list[Cell] = []
        self._composed: dict[int, DictConfig] = {}
        self._table: SweepTable | None = None
        self._lock: int | None = None
        self._predictor: Predictor | None = None
        self.conclusions: list[str] = []
        """Lines to end with."""
        self._dry = bool(OmegaConf.select(config, "sweep.dry_run", default=False))
        if self._dry:  # Hydra's sweeper leaves its multirun.yaml in the folder
            self._nowhere = TemporaryDirectory()
            with flag_override(config, "readonly", False):
                config.hydra.sweep.dir = self._nowhere.name

    def launch(self, overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Run a batch of cells and return what came out; a failed one has no value, and never raises."""
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        self._open()
        batch = [self._cell(list(words), first + place) for place, words in enumerate(overrides)]
        self.cells += batch
        label_all(self.cells, self._config.hydra.overrides.task)
        self._write()
        with self._table, _terminated_as_interrupt():
            self._table.show(self.cells)
            for cell in batch:
                if cell.state is State.FAILED:
                    self._table.ended(cell)
            slots = self._slots(batch)
            runnable = [cell for cell in batch if self._is_to_run(cell)]
            self._predict(runnable, slots[0])
            runnable = [cell for cell in runnable if not cell.state.over and not self._dry]
            self._table.show(self.cells)
            try:
                if joined_rank() is not None:
                    self._run_here(runnable)
                else:
                    self._run_apart(runnable, slots)
            finally:
                self._write()
        return [self._returned(cell) for cell in batch]

    def forecast(self, words: Sequence[str]) -> Forecast | None:
        """Return what is predicted of a cell without launching it; None where that does not decide whether it runs."""
        setup_globals()
        self._open()
        cell = self._cell(list(words), len(self.cells))
        del self._composed[id(cell)]
        if cell.config is None or cell.config.sweep.force or not (self._dry or cell.config.estimate.run):
            return None
        with self._table, _terminated_as_interrupt():
            label_all([cell], self._config.hydra.overrides.task)
            self._table.asking(cell)
            return self._predictor_for(self._slots([cell])[0]).forecast(cell.config)

    def finish(self) -> int:
        """Show how it ended, write the report, and return the exit status: 1 if a cell failed."""
        if self._predictor is not None:
            self._predictor.close()
        self._write()
        if self._dry:
            self._nowhere.cleanup()
        if self.cells:  # a search may be interrupted before its first
            self._table.finish(self.cells, None if self._dry else try_report(self.folder), self.conclusions)
        return 1 if any(cell.state is State.FAILED for cell in self.cells) else 0

    def _open(self) -> None:
        if self._table is None:
            if not self._dry:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = manifest.lock(self.folder)
            self._table = SweepTable(self.folder)
            self._task.sweep = self

    def _cell(self, words: list[str], number: int) -> Cell:
        composed = self._context.config_loader.load_sweep_config(self._config, words)
        with open_dict(composed):
            composed.hydra.job.id, composed.hydra.job.num = str(number), number
        try:
            config = grouped(to_config(composed), self.folder.name)
        except ConfigError as error:  # its words cannot be run together
            cell = Cell(words, self.folder / f"cell-{number}", None, state=State.FAILED, reason=str(error))
        else:
            cell = Cell(words, self.folder / str(composed.hydra.sweep.subdir), config)
            if any(cell.folder == other.folder for other in self.cells):
                cell.state = State.FINISHED  # a search may ask for the same cell twice
        self._composed[id(cell)] = composed
        return cell

    def _is_to_run(self, cell: Cell) -> bool:
        if cell.state.over:
            return False
        if cell.has_finished() if self._dry else not cell.prepare():
            cell.state, cell.earlier = State.FINISHED, True
            cell.predicted_gib = predicted_facts(cell.folder).get("predicted_gib")
        return not cell.state.over

    def _predict(self, cells: list[Cell], slot: Slot) -> None:
        """Predict the memory of cells, and decide which are not started because they do not fit."""
        wanted = [cell for cell in cells if self._dry or cell.config.estimate.run]
        errors: dict[str, None] = {}
        for cell in wanted:
            forecast = self._predictor_for(slot).forecast(cell.config)
            cell.predicted_gib, cell.choice = forecast.gib, forecast.choice
            if forecast.too_large and (self._dry or not cell.config.sweep.force):
                cell.state, cell.reason = State.TOO_LARGE, forecast.too_large
            if forecast.error:
                errors[forecast.error] = None
            self._table.show(self.cells)
        for error in errors:
            self._table.note(f"not predicted: {error}")

    def _predictor_for(self, slot: Slot) -> Predictor:
        if self._predictor is None:
            importlib.import_module("torch")  # here, where cells inherit it, and not only in the process that predicts
            self._predictor = Predictor(slot)
        return self._predictor

    def _run_apart(self, cells: list[Cell], free: list[Slot]) -> None:
        """Run each cell in a process of its own, as many at a time as there are free slots."""
        if not cells:
            return
        importlib.import_module("zerokit.launch.local")
        importlib.import_module(WORKER.partition(":")[0])  # once here, not in each cell
        waiting = deque(cells)
        running: dict[CellProcess, Cell] = {}
        try:
            while waiting or running:
                while waiting and free:
                    cell = waiting.popleft()
                    running[self._start(cell, free.pop(0))] = cell
                wait([process.sentinel for process in running], REFRESH_S)
                for process in [process for process in running if process.wait(0)]:
                    free.append(process.slot)
                    self._end(running.pop(process), process.error())
                self._table.show(self.cells)
        except KeyboardInterrupt:
            self._interrupt(running)
            raise

    def _slots(self, cells: list[Cell]) -> list[Slot]:
        configs = [cell.config for cell in cells if cell.config is not None]
        parallel = max((config.sweep.parallel for config in configs), default=1)
        on_gpus = parallel > 1 and any(config.launch.device != "cpu" for config in configs)
        return divide(parallel, gpu_names() if on_gpus else [], visible_cores())

    def _start(self, cell: Cell, slot: Slot) -> CellProcess:
        cell.state = State.RUNNING
        self._table.started(cell, cell.is_half_done())
        return CellProcess(lambda: self._work(cell), cell.folder, slot)

    def _work(self, cell: Cell) -> JobReturn:
        """Let Hydra run the job of a cell in this process.

        Raises:
            JobFailed: if it failed.
        """
        job = run_job(
            hydra_context=self._context,
            task_function=self._task.of_cell(cell.words, cell.choice),
            config=self._composed[id(cell)],
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if job.status is JobStatus.FAILED:
            raise job._return_value
        return job

    def _end(self, cell: Cell, error: str | None) -> None:
        summary = read_summary(cell.folder)
        cell.state = State.FINISHED if error is None else State.FAILED
        if error is not None:
            cell.reason = str(summary.get("error") or error)
        self._table.ended(cell)
        self._write()
        try_report(self.folder, logging.DEBUG)  # what goes wrong is told at the end

    def _interrupt(self, running: dict[CellProcess, Cell]) -> None:
        """Pass Ctrl-C on to the cells, which end as runs do, and wait for them."""
        for process in running:
            process.signal(signal.SIGINT)
        for process, cell in running.items():
            if not process.wait(GRACE_S):
                process.kill()
            cell.state = State.INTERRUPTED
        self._table.show(self.cells)

    def _run_here(self, cells: list[Cell]) -> None:
        """Run each cell in this process, which leads others that torchrun or srun started."""
        if any(cell.config.sweep.parallel > 1 for cell in cells):
            raise ConfigError("sweep.parallel: under torchrun or srun all processes work on one cell at a time.")
        for cell in cells:
            cell.state = State.RUNNING
            self._table.started(cell, cell.is_half_done())
            error: str | None = "ended by its launcher"
            try:
                self._work(cell)
                error = None
            except Exception as failure:
                error = str(failure)
            finally:
                self._end(cell, error)

    def _returned(self, cell: Cell) -> JobReturn:
        job = JobReturn(overrides=cell.words, cfg=self._composed[id(cell)], status=JobStatus.COMPLETED)
        finished = cell.state is State.FINISHED
        job.cell = cell  # for sweepers of zerokit
        job.return_value = outcome(read_summary(cell.folder), cell.config.sweep.metric) if finished else None
        return job

    def _write(self) -> None:
        if self._dry:
            return
        manifest.write(self.folder, command(self._task.argv), self.cells, self.conclusions)


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the cells as Ctrl-C does."""

    def end(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before: Callable | int | None = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
