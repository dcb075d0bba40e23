"""A few training steps of the real engine on the meta device, seen by a tracker."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from zerokit.config import registry
from zerokit.config.batch import Batch, resolve_batch
from zerokit.config.errors import ConfigError
from zerokit.config.schema import Config
from zerokit.estimate.collection import no_collection
from zerokit.estimate.ledger import KINDS
from zerokit.estimate.op_cache import OpCache
from zerokit.estimate.prediction import Prediction
from zerokit.estimate.rank import DryCommunicator, group_size
from zerokit.estimate.tracker import BACKEND, Tracker
from zerokit.record.hardware import Hardware
from zerokit.train.assemble import build_engine, build_objective, can_record, is_compiled, make_model, wrap_blocks
from zerokit.train.loader import divided
from zerokit.train.objective import Objective
from zerokit.zero.engine import Engine
from zerokit.zero.model.partition import find_blocks

MICRO_BATCHES = 3
"""Micro-batches of a simulated step: the first, the last and one that stands for all between them."""


HOST_WORK = {"compiled": 9.0, "eager": 3.0, "recorded": 0.0}
"""What a step costs the host per kernel, in launches of a small one (`Hardware.launch`), by how it is issued.

compiled: 0.35 B parameters on two H100, step / kernels = 71 to 104 us, a launch 8.8 us (bench/README.md). eager: a
third of that per kernel, of which there are more, on a CPU.
"""


class DryEngine(Engine):
    """The engine, without values and with an update of one kernel per region, as it is compiled on a GPU (and done in
    chunks that fit a cache on a CPU)."""

    tracker: Tracker

    def reaches_compression(self, steps: int) -> bool:
        """Whether so many steps end with some whose communication is compressed."""
        return self._exact_steps is not None and self._exact_steps < steps

    def compress(self) -> None:
        """Let the steps that follow be those with compressed communication."""
        self._steps_done = self._exact_steps

    @property
    def staged(self) -> list[Tensor]:
        """Memory through which passes what lies on the host."""
        return self._update.staging.buffers

    def fuse_update(self, tracker: Tracker) -> None:
        """Let the update take the time of its reads and writes, and no memory."""

        def kernel(weight: Tensor, extra: Tensor | None, gradient: Tensor, state: tuple, *_: Any) -> None:
            written = [t for t in (weight, extra, *state) if t is not None]
            moved = gradient.nbytes + 2 * sum(t.nbytes for t in written)
            tracker.clock.work(tracker.hardware.overhead + moved / tracker.hardware.bandwidth, "update")

        self._update._kernels = dict.fromkeys((True, False), [kernel] * len(self._update.groups))


class Simulator:
    """Predictions for variations of one configuration on one kind of hardware.

    Raises:
        ConfigError: the model or its data cannot be built as the config says.
    """

    def __init__(self, cfg: Config, hardware: Hardware):
        self.cfg, self.hardware = cfg, hardware
        self._op_cache = OpCache()
        self._source = registry.build("data", cfg.data, seed=cfg.train.seed)

    @property
    def counted(self) -> str:
        """What the data consists of: tokens or samples."""
        return self._source.info.counted

    def predict(self, cfg: Config, world: int) -> Prediction:
        """What `cfg` (a variation in anything but the data) needs on `world` ranks.

        Raises:
            ConfigError: the batch cannot be divided, or the model needs values of tensors to run.
        """
        batch = resolve_batch(cfg.batch, world)
        try:
            return self._predict(cfg, world, batch)
        except (NotImplementedError, RuntimeError) as error:
            raise ConfigError(
                f"model={cfg.model.name} cannot be run without values, so nothing is predicted: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error

    def _predict(self, cfg: Config, world: int, batch: Batch) -> Prediction:
        tracker = Tracker(self.hardware, self._op_cache)
        with no_collection(), tracker.active():
            engine = self._build(cfg, world, batch, tracker)
            step = _Step(engine, build_objective(engine, self._source, cfg), self._source, batch, tracker)
            step.run()  # compiles, and records the orders of gathers and reductions
            tracker.ledger.restart()
            if engine.reaches_compression(cfg.train.steps):
                step.run()
                engine.compress()
                step.run()  # gathers once what later steps have
            spent = step.measured()
        seconds, busy = _busy(spent, self.hardware.launch * HOST_WORK[self._issued(cfg)])
        memory = {kind: tracker.ledger.at_peak[kind] for kind in KINDS}
        memory["temporary"] += self.hardware.workspace
        return Prediction(
            world=world,
            stage=cfg.zero.stage,
            precision=cfg.precision.name,
            checkpointing=cfg.checkpointing.name,
            micro=batch.micro,
            accumulation=batch.accumulation,
            tokens_per_step=batch.global_ * self._source.info.sample_tokens,
            parameters=sum(p.numel() for unit in engine.units for p in unit.parameters),
            memory=memory,
            storage=engine.memory(),
            peer_bytes=engine.comm.shared_bytes,
            calls=_part(spent, "calls"),
            traffic=_part(spent, "bytes"),
            busy=busy,
            seconds=seconds,
            recordable=can_record(cfg, engine),
            group=engine.comm.mesh.sizes[engine.comm.mesh.innermost],
        )

    def _issued(self, cfg: Config) -> str:
        compiled = is_compiled(cfg, self.hardware.device)
        return "recorded" if cfg.train.cuda_graph else "compiled" if compiled else "eager"

    def _build(self, cfg: Config, world: int, batch: Batch, tracker: Tracker) -> DryEngine:
        ledger = tracker.ledger
        with torch.device("meta"):
            model = make_model(cfg, self._source.info)
        wrap_blocks(model, cfg, torch.device(self.hardware.device), BACKEND)
        _label_forward(model, tracker)
        size = group_size(cfg.zero.shard_size, world, self.hardware.per_host)
        comm = DryCommunicator(world, self.hardware, tracker.clock, ledger, size)
        kind = partial(DryEngine, transient_gradients=self.hardware.device == "cuda")
        engine = build_engine(model, cfg, comm, batch.accumulation, kind)
        engine.fuse_update(tracker)
        storage = engine.storage
        for buffer in model.buffers():
            ledger.see(buffer)
        ledger.label(model.buffers(), "weights")
        ledger.label([storage.extra], "master")
        ledger.label(storage.gradients, "gradients")
        ledger.label([*storage.states.arenas.values(), *storage.states.kept.values()], "optimizer")
        ledger.label(engine.staged, "optimizer")
        ledger.label([slot.buffer for slot in storage.weight_slots], "gather buffers")
        wires = [slot.buffer for slots in storage.wires.values() for slot in slots]
        ledger.label([*wires, *(memory.local for memory in comm.memories)], "reduce buffers")
        ledger.label([storage.weights], "weights")  # may be peer memory too
        return engine


def _label_forward(model: nn.Module, tracker: Tracker) -> None:
    """Say of what kind memory is that the forward pass allocates: what follows the blocks belongs to the loss."""
    blocks = find_blocks(model)

    def begin(*_: Any) -> None:
        tracker.ledger.kind = "activations"

    def end(*_: Any) -> None:
        tracker.ledger.kind = "logits and loss"

    model.register_forward_pre_hook(begin)
    if blocks:
        blocks[-1].register_forward_hook(end)


class _Step:
    """Training steps as the trainer takes them, with at most `MICRO_BATCHES` micro-batches."""

    def __init__(self, engine: DryEngine, objective: Objective, source: Any, batch: Batch, tracker: Tracker):
        self.objective, self.engine, self.tracker, self.accumulation = objective, engine, tracker, batch.accumulation
        shapes = divided(source.batch(0, batch.micro))
        with tracker.ledger.of_kind("activations"):
            self.batches = [
                tree_map(partial(torch.empty_like, device="meta"), shapes)
                for _ in range(min(self.accumulation, MICRO_BATCHES))
            ]

    def run(self) -> list[Counter[str]]:
        """Take one step; what was spent on each of its micro-batches and on the update."""
        spent, before = [], self._reading()
        for index, (inputs, targets) in enumerate(self.batches):
            loss, tokens = self.objective(inputs, targets)
            self.tracker.ledger.kind = "temporary"
            self.engine.backward(loss, last=index + 1 == len(self.batches), tokens=tokens)
            del loss, tokens
            self.tracker.clock.compute.wait(self.tracker.host.now)
            spent.append(self._reading() - before)
            before = self._reading()
        self.engine.step()
        return [*spent, self._reading() - before]

    def measured(self) -> Counter[str]:
        """What one step spends: seconds and kernels, seconds by kind, calls and bytes by collective."""
        spent = self.run()
        if len(self.batches) == MICRO_BATCHES:
            middle = spent[1]
            spent.append(Counter({key: value * (self.accumulation - MICRO_BATCHES) for key, value in middle.items()}))
        return sum(spent, Counter())

    def _reading(self) -> Counter[str]:
        clock, comm = self.tracker.clock, self.engine.comm
        reading = Counter({"seconds": clock.compute.now, "kernels": clock.kernels})
        for prefix, counts in (("busy", clock.busy), ("calls", comm.calls), ("bytes", comm.traffic)):
            reading.update({f"{prefix} {kind}": count for kind, count in counts.items()})
        return reading


def _part(spent: Counter[str], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(f"{prefix} "): value for key, value in spent.items() if key.startswith(f"{prefix} ")}


def _busy(spent: Counter[str], issue: float) -> tuple[float, dict[str, float]]:
    """Seconds of a step and what they are spent on; on the host, where it issues more slowly than the device works.

    issue: seconds that the host takes for a kernel.
    """
    busy = _part(spent, "busy")
    device = spent["seconds"]
    busy["waiting for communication"] = max(0.0, device - sum(busy.values()))
    seconds = max(device, spent["kernels"] * issue)
    busy["issuing kernels"] = seconds - device
    return seconds, busy
