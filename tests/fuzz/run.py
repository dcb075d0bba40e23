"""Runs programs: long-lived forked workers, a gloo group for each number of ranks and one process for the reference."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch._dynamo  # checkpoints import it at their first use, which takes seconds: once, before processes fork
import torch.distributed as dist
from torch import Tensor, nn

import zerokit
from tests.fuzz import compare, reference
from tests.fuzz.build import build
from tests.fuzz.compare import Result
from tests.fuzz.program import Program
from tests.fuzz.script import Record, Script
from zerokit.train.initialize import typed

LIMIT_S = 30.0
"""A program takes 0.2 s; this long where other processes have the cores."""
GRACE_S = 4.0
"""How much longer than the first rank that failed the others may take."""
RETIRE = 200
"""Programs after which a group's processes are replaced."""


class EngineSide:
    """A rank's engine."""

    def __init__(self, program: Program, rank: int):
        self.net = build(program, rank)
        self.has, self.fp16 = program.extras, program.precision == "fp16"
        self.engine = zerokit.initialize(self.net, configuration(program))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.engine(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        if "plain_backward" not in self.has:
            self.engine.backward(loss)
        elif self.fp16:
            self.engine.scale(loss).backward()
        else:
            loss.backward()

    def load(self, weights: Record) -> None:
        self.net.load_state_dict(weights, strict=False)

    def replace(self, parent: nn.Module, name: str, new: nn.Module) -> None:
        setattr(parent, name, new)

    def weights(self) -> Record:
        return dict(self.engine.full_state_dict())


def configuration(program: Program) -> dict[str, Any]:
    """What `zerokit.initialize` is given."""
    _, options = reference.OPTIMIZERS[program.optimizer]
    options, fp16 = dict(options), program.precision == "fp16"
    if "betas" in options:
        options["beta1"], options["beta2"] = options.pop("betas")
    return {
        "zero": {
            "stage": program.stage,
            "min_unit": 0,
            "prefetch": program.prefetch,
            "units": [program.units] if program.units else [],
        },
        "precision": {"name": "fp16", "loss_scale": reference.SCALE} if fp16 else program.precision,
        "optimizer": {"name": program.optimizer, "decay_norms_and_biases": True, **options},
        "checkpointing": program.checkpointing,
        "batch": {"accumulation": program.accumulation},
        "train": {"clip_norm": program.clip_norm},
        "launch": {"device": "cpu"},
    }


def train(program: Program) -> Record:
    """The program with zerokit, on this rank."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    side = EngineSide(program, rank)
    script = Script(program, side, rank)
    for step in range(program.steps):
        script.prepare(step)
        script.train(step)
        side.engine.step()
    return script.finish()


# -- processes ---------------------------------------------------------------------------------------------------------


@dataclass
class Failure:
    """An error of a worker; it goes through a pipe, which the error itself might not."""

    kind: str
    message: str
    trace: str


def _serve(work: Callable[[Program], Any], rank: int, world: int, path: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # PyTorch's, of reentrant checkpoints for one
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world)
    gc.freeze()  # what is loaded stays: a collection looks at a program's objects only
    while True:
        program = pipe.recv()
        try:
            answer = work(program)
        except Exception as error:
            answer = Failure(
                type(error).__name__,
                "\n".join([str(error), *getattr(error, "__notes__", ())]),
                traceback.format_exc(limit=-8),
            )
        pipe.send(_plain(answer))
        del answer
        gc.collect()


def _plain(value: Any) -> Any:
    """Tensors as arrays: those would go through shared memory, a file descriptor each."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, list | tuple) else value


class Group:
    """Forked processes that do the same `work`, each on its rank."""

    def __init__(self, work: Callable[[Program], Any], world: int = 1):
        self.work, self.world = work, world
        self.processes: list[Any] = []

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.folder = tempfile.TemporaryDirectory(prefix="fuzz")
        path = os.path.join(self.folder.name, "store")
        self.pipes, self.done = [], 0
        for rank in range(self.world):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(self.work, rank, self.world, path, theirs), daemon=True)
            process.start()
            theirs.close()  # so that its death is the end of the pipe
            self.processes.append(process)
            self.pipes.append(ours)

    def stop(self) -> None:
        """End the processes, at once."""
        for process in self.processes:
            process.kill()
            process.join()
        if self.processes:
            self.folder.cleanup()
        self.processes = []

    def __call__(self, program: Program) -> list[Any]:
        """What each rank answers: a value, a Failure, or None for no answer. After anything but values the processes
        end, as what they left may be in the way of the next program."""
        if not self.processes:
            self._start()
        for pipe in self.pipes:
            pipe.send(program)
        answers = self._receive()
        self.done += 1
        if self.done >= RETIRE or any(answer is None or isinstance(answer, Failure) for answer in answers):
            self.stop()
        return answers

    def _receive(self) -> list[Any]:
        answers: list[Any] = [None] * self.world
        deadline = time.monotonic() + LIMIT_S
        waiting = dict(zip(self.pipes, range(self.world), strict=True))
        while waiting and (left := deadline - time.monotonic()) > 0:
            for pipe in wait(list(waiting), left):
                rank = waiting.pop(pipe)
                try:
                    answers[rank] = pipe.recv()
                except (EOFError, ConnectionResetError):
                    answers[rank] = Failure("Death", "the process has died", "")
                if isinstance(answers[rank], Failure):
                    deadline = min(deadline, time.monotonic() + GRACE_S)
        return answers


class Runner:
    """Runs programs one after another on both sides."""

    def __init__(self):
        typed({})  # loads what configurations name, for all processes that fork
        self.reference = Group(reference.run)
        self.groups = {world: Group(train, world) for world in (1, 2, 3)}

    def __call__(self, program: Program) -> Result:
        """What came out."""
        (wanted,) = self.reference(program)
        if (invalid := compare.invalid(wanted)) is not None:
            return invalid
        return compare.judge(program, wanted, self.groups[program.world](program))

    def stop(self) -> None:
        """End all processes."""
        for group in (self.reference, *self.groups.values()):
            group.stop()
