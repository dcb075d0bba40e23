"""One rank of a run, from the config to the files it leaves behind."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from zerokit.comm import Communicator
from zerokit.comm.process import meeting_place, place, start
from zerokit.config import registry
from zerokit.config.schema import Config, LaunchConfig
from zerokit.fault import END, Ended, Limits, Monitor, is_consequence
from zerokit.record import summary as summaries
from zerokit.record.console import Console
from zerokit.record.metrics import GIB, MetricsFile, bits_per_byte, format_count
from zerokit.report import write_report
from zerokit.report.ended import mark_ended
from zerokit.state.disk import Disk
from zerokit.state.folder import FOLDER, step_path
from zerokit.state.resume import candidates, identity
from zerokit.tracker._base import RunInfo
from zerokit.train.assemble import assemble, can_record
from zerokit.train.out_of_memory import explained
from zerokit.train.profile import profiling
from zerokit.train.saving import Saver
from zerokit.train.trainer import Trainer, evaluating
from zerokit.zero.replicas import Replicas

UNITS = {"tokens": "nats", "classification": "nats", "regression": "mse"}
PROMPTS = {256: "def "}
"""Beginning of the sample by size of the vocabulary; other vocabularies start from token 0."""

STATES = ("parameters", "gradients", "optimizer")

log = logging.getLogger("zerokit")


def run(config: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """Train as the config says and return the summary. Every rank calls it; rank 0 writes the files.

    Raises:
        FloatingPointError, RuntimeError, …: what ended the training; the summary then says `failed`.
    """
    cfg, folder = Config.from_dict(config), Path(run_dir)
    rank, _, world = place()
    _log_to(folder / "logs" / f"rank{rank}.log")
    facts = summaries.first_facts(config, world) | {"attempts": summaries.earlier_attempts(folder)}
    facts |= summaries.predicted_facts(folder)
    view = _View(cfg, config, folder, facts) if rank == 0 else _Silence(folder)
    trainer = None
    with _monitor(cfg.launch, folder, view) as monitor:
        try:
            with start(cfg.launch) as process:
                comm = Communicator(process.device, cfg.launch.timeout_s)
                monitor.position = lambda: (comm.begun, comm.last)
                log.info("rank %d of %d on %s", rank, world, _device_name(process.device))
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


def _monitor(launch: LaunchConfig, folder: Path, view: _View | _Silence) -> Monitor:
    store, (rank, _, world) = meeting_place(launch), place()
    limits = Limits(launch.step_timeout_s, launch.start_timeout_s, launch.save_timeout_s)
    return Monitor(None if store is None else store.clone(), rank, world, limits, folder / "logs", view.record)


def _train(trainer: Trainer, cfg: Config, config: dict[str, Any], folder: Path, view: _View | _Silence,
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
        return {"status": "finished", **_results(trainer, cfg)}
    cause = f"{signal.Signals(monitor.signal).name} after step {step}"
    state = step_path(saver.root, step)
    kept = {"state": state.name} if state.is_dir() else {}
    return {"status": "interrupted", "error": cause, "signal": monitor.signal, **kept}


def open_state(
    trainer: Trainer, cfg: Config, config: dict[str, Any], folder: Path, disk: Disk | None = None
) -> tuple[Saver, Path | None]:
    """What saves the run's states, and the state that the trainer now goes on from. A collective.

    Raises:
        StateError: no state can be written or read. StateMismatch: the one to go on from is of another training.
    """
    resolved = {
        "batch.global": trainer.batch.global_,
        "data.sha256": trainer.info.sha256,
        "train.loss_mean": trainer.objective.mean,
    }
    facts = {"precision": cfg.precision.name, "config": config}
    saver = Saver(
        trainer, folder / FOLDER, cfg.state, identity(config, **resolved), facts, disk, cfg.launch.save_timeout_s
    )
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    paths = candidates(folder, cfg.state.resume, restarted) if trainer.comm.rank == 0 else []
    resumed = saver.resume(paths)
    saver.prepare()
    return saver, resumed


def verification(trainer: Trainer, every: int) -> Callable[[int], None]:
    """What to call after each step: every `every` steps it compares what the ranks hold alike.

    Raises (the function, on all ranks):
        Ended: a rank holds other values, and of which parameter.
    """
    replicas = Replicas(trainer.engine) if every else None
    if every and not replicas:
        log.warning("state.verify_every: no rank holds the same as another here, so nothing is compared.")

    def verify(step: int) -> None:
        if replicas and step % every == 0:
            difference = replicas.difference()
            if difference is not None:
                raise Ended(f"the weights or states of the ranks are not the same after step {step}: {difference}")

    return verify


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]  # Hydra's own handlers would write to the terminal
    root.setLevel(logging.INFO)


class _LogFile(logging.FileHandler):
    """A line that finds no room on the disk is lost; `logging` would print a traceback for each."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class _Silence:
    """What ranks other than 0 show: nothing, unless rank 0 is gone."""

    def __init__(self, folder: Path):
        self.folder = folder

    def begin(self, trainer: Trainer, resumed: Path | None) -> None:
        pass

    def progress(self, step: int, metrics: dict[str, float] | None) -> None:
        pass

    def end(self, **facts: Any) -> dict[str, Any]:
        if facts["status"] == "failed":
            self.record("failed", facts["error"])
        return facts

    def record(self, status: str, cause: str) -> None:
        """Write down how and why the run ended if the folder is that of rank 0 and not another host's."""
        if summaries.read_summary(self.folder):
            mark_ended(self.folder, status, cause)


class _View:
    """Rank 0's files, tracker and terminal."""

    def __init__(self, cfg: Config, config: dict[str, Any], folder: Path, facts: dict[str, Any]):
        self.cfg, self.config, self.folder, self.summary = cfg, config, folder, facts
        self.console = Console(cfg.train.steps)
        shown = self.console.handler()
        if os.environ.get("TORCHELASTIC_ERROR_FILE"):  # else no launcher says it
            shown.addFilter(lambda record: record.name != END.name)
        logging.getLogger().addHandler(shown)
        self.tracker: Any = None
        self.file: MetricsFile | None = None
        self._trainer: Trainer | None = None
        self._warned = False
        summaries.write_summary(folder, self.summary)

    def begin(self, trainer: Trainer, resumed: Path | None) -> None:
        """The run is assembled, or goes on from the state `resumed`: open what follows it."""
        self._trainer, info = trainer, trainer.info
        count = sum(p.numel() for unit in trainer.engine.units for p in unit.parameters)
        self.summary["device"] = _device_name(trainer.comm.device)
        self.summary |= {"model": {"name": self.cfg.model.name, "parameters": count}, "data_sha256": info.sha256}
        self.summary |= {"flops_per_token": trainer.flops_per_token, "peak_tflops": trainer.peak_tflops}
        self.summary["counted"] = self.console.counted = info.counted
        self.summary["loss_unit"] = UNITS[info.task]
        self.console.unit = "" if info.bytes_per_token else UNITS[info.task]
        self.console.note(
            f"{self.cfg.model.name} · {format_count(count)} parameters · stage {self.cfg.zero.stage} · "
            f"{self.cfg.precision.name} · {trainer.comm.world} × {self.summary['device']}"
        )
        self.console.note(info.description)
        step = trainer.progress.step
        self.summary["resumed_from"] = None if resumed is None else {"step": step, "path": str(resumed)}
        if resumed is not None:
            self.console.note(f"going on after step {step}, from {resumed}")
        self.file = MetricsFile(self.folder / "metrics.jsonl", after=step)
        run = self.cfg.run
        info = RunInfo(self.folder, self.config, run.name, run.group, "train", self._tags())
        self.tracker = registry.build("tracker", self.cfg.tracker, run=info)
        summaries.write_summary(self.folder, self.summary)

    def _tags(self) -> list[str]:
        cfg = self.cfg
        facts = (
            f"stage{cfg.zero.stage}",
            cfg.precision.name,
            f"checkpointing={cfg.checkpointing.name}",
            cfg.model.name,
        )
        return list(dict.fromkeys((*self.cfg.run.tags, *facts)))

    def progress(self, step: int, metrics: dict[str, float] | None) -> None:
        """A step is done."""
        if metrics is not None and self.summary.get("predicted_gib") is not None:
            metrics = metrics | {"memory/predicted_gib": self.summary["predicted_gib"]}
        self.console.progress(step, metrics)
        if metrics is not None:
            with self._lenient():
                self.file.log(metrics, step)
            self.tracker.log(metrics, step)
            log.info("step %d: %s", step, metrics)

    def end(self, **facts: Any) -> dict[str, Any]:
        """The run is over: write what came out, show it, and return the summary."""
        self.summary |= self._progress() | facts
        files = {label: name for label, name in summaries.FILES.items() if (self.folder / name).exists()}
        self.summary["files"] = {**files, "report": summaries.FILES["report"]}
        with self._lenient():
            summaries.write_summary(self.folder, self.summary)
        if self.file is not None:
            with self._lenient():
                self.file.close()
            self.tracker.finish(self.summary)
        with self._lenient():
            write_report(self.folder)
        if self.summary["status"] == "failed":
            self.console.close()  # the launcher shows the cause, which may lie on another rank
        else:
            self.console.finish(self.summary, self.folder)
        return self.summary

    @contextmanager
    def _lenient(self) -> Iterator[None]:
        """Let a file that cannot be written be no more than a warning, the first one, if the run shall go on then, or
        has failed: its cause counts."""
        try:
            yield
        except OSError as error:
            failed = self.summary["status"] == "failed"
            if self.cfg.state.on_error == "fail" and not failed:
                raise
            if not self._warned:
                log.warning("%s.%s", error, "" if failed else " The training goes on (state.on_error=continue).")
            self._warned = True

    def _progress(self) -> dict[str, Any]:
        if self._trainer is None:
            return {}
        progress = self._trainer.progress
        return {"steps": progress.step, "tokens": progress.tokens, "seconds": progress.seconds,
                "loss": _number(progress.loss), "loss_first": _number(progress.first_loss),
                "bits_per_byte": _bits_per_byte(self._trainer)}  # fmt: skip

    def record(self, status: str, cause: str) -> None:
        """Write down how and why the run ended, from a thread beside the main one, which hangs."""
        mark_ended(self.folder, status, cause, self.summary | self._progress())


def _number(value: float | None) -> float | None:
    """`value` if JSON can hold it."""
    return value if value is not None and abs(value) < float("inf") else None


def _results(trainer: Trainer, cfg: Config) -> dict[str, Any]:
    """What only a finished run knows. A collective."""
    progress, engine, comm = trainer.progress, trainer.engine, trainer.comm
    rows = _memory_of_ranks(trainer)
    stage0 = engine.memory_at(0)
    began = time.perf_counter()
    digest = engine.reader.sha256()
    log.info("hashed the weights in %.1f s", time.perf_counter() - began)
    later = progress.step > 1  # the first step compiles and allocates
    tokens = progress.tokens - later * trainer.tokens_per_step
    speed = tokens / max(progress.seconds - later * progress.first_seconds, 1e-9)
    return {
        "validation_loss": _number(progress.held_out_loss),
        "tokens_per_sec": speed,
        "tokens_per_sec_per_gpu": speed / comm.world,
        "max_allocated_gib": [row["total"] / GIB for row in rows],
        "memory": rows,
        "stage0": {**stage0, "total": sum(stage0.values())},
        "weights_sha256": digest,
        "skipped_steps": int(engine.steps_skipped),
        "host_limits": trainer.waits.host_limits and _could_record(trainer, cfg),
        "sample": _sample(trainer, cfg),
    }


def _could_record(trainer: Trainer, cfg: Config) -> bool:
    """Whether `train.cuda_graph=true` would be another run than this one, and allowed."""
    engine = trainer.engine
    return engine.device.type == "cuda" and not cfg.train.cuda_graph and can_record(cfg, engine)


def _memory_of_ranks(trainer: Trainer) -> list[dict[str, int]]:
    """Bytes by kind on every rank; `other` is what the peak holds beside the states. A collective."""
    memory = trainer.engine.memory()
    states = [memory[kind] for kind in STATES]
    total = max(trainer.peak_bytes(), sum(memory.values()))
    table = trainer.comm.gather_row([*map(float, states), float(total - sum(states)), float(total)])
    return [dict(zip((*STATES, "other", "total"), map(int, row), strict=True)) for row in table]


def _bits_per_byte(trainer: Trainer) -> dict[str, float | None] | None:
    progress, per_token = trainer.progress, trainer.info.bytes_per_token
    if per_token is None:
        return None

    def bits(loss: float | None) -> float | None:
        return None if loss is None else _number(bits_per_byte(loss, per_token))

    return {"first": bits(progress.first_loss), "last": bits(progress.loss), "validation": bits(progress.held_out_loss)}


def _sample(trainer: Trainer, cfg: Config) -> str | None:
    """Text continued by the model, prompt included; None where the data has no text. A collective."""
    info, source = trainer.info, trainer.loader.source
    if info.task != "tokens" or cfg.train.sample_tokens == 0:
        return None
    from zerokit.model._generate import generate

    prompt = list(PROMPTS[info.vocab_size].encode()) if info.vocab_size in PROMPTS else [0]
    engine, options = trainer.engine, cfg.train
    with evaluating(engine.module), engine.evaluating():
        tokens = generate(engine, prompt, options.sample_tokens, 0.7, options.seed, info.seq_len, engine.device)
    return source.decode(prompt + tokens)
