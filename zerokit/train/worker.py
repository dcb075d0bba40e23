"""One rank of a run, from the config to the files it leaves behind."""

from __future__ import annotations

import logging
import signal
from functools import partial
from pathlib import Path
from typing import Any

from zerokit.callbacks import Callback, Run
from zerokit.comm.process import meeting_place, place, start
from zerokit.config.schema import Config
from zerokit.fault import END, Ended, FolderWatch, Limits, Monitor, is_consequence
from zerokit.record import summary as summaries
from zerokit.report.ended import mark_ended
from zerokit.train.assemble import assemble, communicator
from zerokit.train.callbacks import Callbacks, Shown, named
from zerokit.train.facts import Results, assembled_facts, device_name, progress_facts
from zerokit.train.final import Final
from zerokit.train.logs import log_to
from zerokit.train.out_of_memory import Advise, explained
from zerokit.train.profile import Profiler
from zerokit.train.recorder import Recorder
from zerokit.train.resume import open_state
from zerokit.train.terminal import Terminal
from zerokit.train.tracking import Tracking
from zerokit.train.verify import Verification

log = logging.getLogger("zerokit")


def run(config: dict[str, Any], run_dir: str, advise: Advise | None = None) -> dict[str, Any]:
    """Train as the config says and return the summary. Every rank calls it; rank 0 writes the files.

    advise: what would help where memory runs out.

    Raises:
        FloatingPointError, RuntimeError, …: what ended the training; the summary then says `failed`.
    """
    cfg, folder = Config.from_dict(config), Path(run_dir)
    rank, _, world = place()
    log_to(folder / "logs" / f"rank{rank}.log")
    facts = summaries.first_facts(config, world) | {"attempts": summaries.earlier_attempts(folder)}
    this = Run(cfg, folder, rank, world, facts | summaries.predicted_facts(folder))
    shown = _shown(this) if rank == 0 else ()
    callbacks = Callbacks(shown)
    with FolderWatch(folder / "logs") as logs, _monitor(this, logs) as monitor:
        if rank == 0:
            logs.start(lambda: monitor.fail(_gone(this, logs)))
        try:
            with start(cfg.launch) as process:
                comm = communicator(cfg, process.device)
                monitor.position = lambda: (comm.begun, comm.last)
                log.info("rank %d of %d on %s", rank, world, device_name(process.device))
                this.trainer = assemble(cfg, comm)
                this.trainer.on_phase = monitor.phase
                callbacks = _open(this, shown)
                _train(this, callbacks, monitor)
                return this.summary
        except Exception as error:
            failure = explained(error, cfg, this.trainer, advise)
            END.error("the training failed", exc_info=True)
            cause = monitor.cause(failure)
            this.summary |= {"status": "failed", "error": cause}
            if monitor.records():
                _record(this, logs, "failed", cause)
            callbacks.on_failure(this.summary)
            if is_consequence(error):
                raise Ended(cause) from error
            if failure is error:
                raise
            log.info("%s", failure)
            raise failure.with_traceback(error.__traceback__) from None  # the log has what torch said


def _shown(this: Run) -> tuple[Callback, ...]:
    """What rank 0 has beside the others: its views, and the files."""
    return Shown(lambda: Terminal(this), "the terminal"), Shown(lambda: Tracking(this), "the tracker"), Recorder(this)


def _monitor(this: Run, written: FolderWatch) -> Monitor:
    launch = this.config.launch
    store = meeting_place(launch)
    limits = Limits(launch.step_timeout_s, launch.start_timeout_s, launch.save_timeout_s)
    clone, record = None if store is None else store.clone(), partial(_record, this, written)
    logs = this.folder / "logs"
    return Monitor(clone, this.rank, this.world, limits, logs, record, launch.save_signals)


def _gone(this: Run, logs: FolderWatch) -> str:
    where = logs.now()
    what = "removed" if where is None else f"moved to {where.parent}"
    return f"the output folder {this.folder} was {what} while the run wrote into it"


def _record(this: Run, logs: FolderWatch, status: str, cause: str) -> None:
    """Write down how and why a run ended that does not come to its end, also from a thread beside one that hangs.

    logs: of the run's folder, to which they lead also if it has been moved.
    """
    where = logs.now()
    folder = this.folder if where is None else where.parent
    if this.rank == 0:
        known = this.summary | progress_facts(this.trainer) | {"files": summaries.files(folder)}
        mark_ended(folder, status, cause, known)
    elif summaries.read_summary(this.folder):  # else it is another host's folder, and not that of rank 0
        mark_ended(this.folder, status, cause)


def _open(this: Run, shown: tuple[Callback, ...]) -> Callbacks:
    """Everything that the assembled run is told to, once it is where it goes on from. A collective."""
    cfg, trainer, own = this.config, this.trainer, named(this)
    saver, this.resumed = open_state(trainer, cfg, cfg.to_dict(), this.folder, callbacks=own)
    step = trainer.progress.step
    resumed_from = None if this.resumed is None else {"step": step, "path": str(this.resumed)}
    this.summary |= assembled_facts(trainer, cfg.model.name) | {"resumed_from": resumed_from}
    verification = [Verification(trainer, cfg.state.verify_every)] if cfg.state.verify_every else []
    profiler = [Profiler(cfg.profile, trainer, this.folder / "profile")] if cfg.profile.steps else []
    callbacks = Callbacks((*shown, *own.values(), Results(this), *verification, Final(this), saver, *profiler))
    saver.on_saved, saver.facts["tracker"] = callbacks.on_save, this.tracked
    return callbacks


def _train(this: Run, callbacks: Callbacks, monitor: Monitor) -> None:
    """All steps, or those up to a signal or to where a callback stops, and the end."""
    trainer, gib = this.trainer, this.summary["predicted_gib"]
    predicted = {} if gib is None else {"memory/predicted_gib": gib}
    callbacks.on_start()
    if monitor.go_on(trainer.progress.step):
        for step, metrics in trainer.fit():
            monitor.phase("save")
            callbacks.on_step(step, metrics and metrics | predicted)
            if this.stopped or not monitor.go_on(step):
                break
    monitor.phase("save")
    this.summary |= progress_facts(trainer) | _ending(monitor, trainer.progress.step)
    callbacks.on_end(this.summary)


def _ending(monitor: Monitor, step: int) -> dict[str, Any]:
    if monitor.signal is None:
        return {"status": "finished"}
    cause = f"{signal.Signals(monitor.signal).name} after step {step}"
    return {"status": "interrupted", "error": cause, "signal": monitor.signal}
