"""One rank of a run, from the config to the files it leaves behind."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any

from zerokit.comm import Communicator
from zerokit.comm.process import meeting_place, place, start
from zerokit.config.schema import Config, LaunchConfig
from zerokit.fault import END, Ended, Limits, Monitor, is_consequence
from zerokit.record import summary as summaries
from zerokit.state.folder import step_path
from zerokit.train.assemble import assemble
from zerokit.train.logs import log_to
from zerokit.train.out_of_memory import explained
from zerokit.train.profile import profiling
from zerokit.train.results import results
from zerokit.train.resume import open_state
from zerokit.train.saving import Saver
from zerokit.train.trainer import Trainer
from zerokit.train.verify import verification
from zerokit.train.view import Silence, View, device_name

log = logging.getLogger("zerokit")


def run(config: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """Train as the config says and return the summary. Every rank calls it; rank 0 writes the files.

    Raises:
        FloatingPointError, RuntimeError, …: what ended the training; the summary then says `failed`.
    """
    cfg, folder = Config.from_dict(config), Path(run_dir)
    rank, _, world = place()
    log_to(folder / "logs" / f"rank{rank}.log")
    facts = summaries.first_facts(config, world) | {"attempts": summaries.earlier_attempts(folder)}
    facts |= summaries.predicted_facts(folder)
    view = View(cfg, config, folder, facts) if rank == 0 else Silence(folder)
    trainer = None
    with _monitor(cfg.launch, folder, view) as monitor:
        try:
            with start(cfg.launch) as process:
                comm = Communicator(process.device, cfg.launch.timeout_s)
                monitor.position = lambda: (comm.begun, comm.last)
                log.info("rank %d of %d on %s", rank, world, device_name(process.device))
                trainer = assemble(cfg, comm)
                return view.end(**_train(trainer, cfg, config, folder, view, monitor))
        except Exception as error:
            failure = explained(error, cfg, trainer)
            END.error("the training failed", exc_info=True)
            cause = monitor.cause(failure)
            if monitor.records():
                view.end(status="failed", error=cause)
            if is_consequence(error):
                raise Ended(cause) from error
            if failure is error:
                raise
            log.info("%s", failure)
            raise failure.with_traceback(error.__traceback__) from None  # the log has what torch said


def _monitor(launch: LaunchConfig, folder: Path, view: View | Silence) -> Monitor:
    store, (rank, _, world) = meeting_place(launch), place()
    limits = Limits(launch.step_timeout_s, launch.start_timeout_s, launch.save_timeout_s)
    return Monitor(None if store is None else store.clone(), rank, world, limits, folder / "logs", view.record)


def _train(trainer: Trainer, cfg: Config, config: dict[str, Any], folder: Path, view: View | Silence,
           monitor: Monitor) -> dict[str, Any]:  # fmt: skip
    """All steps, or those up to a signal; what came out."""
    trainer.on_phase = monitor.phase
    saver, resumed = open_state(trainer, cfg, config, folder)
    view.begin(trainer, resumed)
    verify = verification(trainer, cfg.state.verify_every)
    if monitor.go_on(trainer.progress.step):
        with profiling(cfg.profile, trainer, folder / "profile") as after_step:
            for step, metrics in trainer.fit():
                view.progress(step, metrics)
                monitor.phase("save")
                verify(step)
                saver.after_step(step)
                after_step()
                if not monitor.go_on(step):
                    break
    return _finish(trainer, cfg, saver, monitor)


def _finish(trainer: Trainer, cfg: Config, saver: Saver, monitor: Monitor) -> dict[str, Any]:
    """Save the end of the training, and tell what came out."""
    step = trainer.progress.step
    monitor.phase("save")
    if monitor.signal is not None and step > 0:
        saver.save_now(step, wait=True)
    saver.finish(step)
    monitor.phase("end")
    if monitor.signal is None:
        return {"status": "finished", **results(trainer, cfg)}
    cause = f"{signal.Signals(monitor.signal).name} after step {step}"
    state = step_path(saver.root, step)
    kept = {"state": state.name} if state.is_dir() else {}
    return {"status": "interrupted", "error": cause, "signal": monitor.signal, **kept}
