"""What an engine's state consists of, as pieces of named tensors that do not depend on stage, world size or precision.

`weight/NAME` are the exact fp32 master weights (frozen ones in the compute format), `optimizer.STATE/NAME` the
optimizer's states, `engine/…` and `scaler/…` counters and the loss scale, `rankR/…` what each rank has of its own:
random generators and buffers.
"""

from __future__ import annotations

import random
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zerokit.comm.exchange import Exchange
from zerokit.state.disk import Disk
from zerokit.state.errors import StateMismatch
from zerokit.state.manifest import Manifest
from zerokit.state.piece import Piece, whole
from zerokit.state.rankfile import RankFile
from zerokit.state.read import StateReader, check_fits, restore, together, verify
from zerokit.state.save import check_json, save_state
from zerokit.zero import placement
from zerokit.zero.access.convert import conversions, readable, tensor_name
from zerokit.zero.access.parts import EngineParts
from zerokit.zero.materialize import Materializer
from zerokit.zero.placement import STAGES, Home
from zerokit.zero.update.master import MASTERS, Across

WEIGHT = "weight/"
NUMPY_GENERATOR = "MT19937"
"""The kind of NumPy's global generator whose state is saved."""


class Own:
    """What one rank has of its own, in tensors made for saving: random generators, persistent buffers, and `kept`
    parameters, which are not divided."""

    def __init__(self, model: nn.Module, kept: Mapping[str, nn.Parameter], device: torch.device):
        self._model, self._kept, self._device = model, kept, device
        self.tensors = {key: value.clone() for key, value in self._now()}

    def _now(self) -> Iterator[tuple[str, Tensor]]:
        yield "rng/torch", torch.get_rng_state()
        if self._device.type == "cuda":
            yield "rng/cuda", torch.cuda.get_rng_state(self._device)
        _, words, gauss = random.getstate()
        yield "rng/python", torch.tensor(words, dtype=torch.int64)
        yield "rng/python_gauss", torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64)
        yield from _numpy_state()
        for name, buffer in self._buffers():
            yield f"buffer/{name}", torch.view_as_real(buffer) if buffer.is_complex() else buffer

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        for path, module in self._model.named_modules():
            for key, buffer in module._buffers.items():
                if buffer is not None and key not in module._non_persistent_buffers_set:
                    yield f"{path}.{key}".lstrip("."), buffer
        yield from ((name, parameter.detach()) for name, parameter in self._kept.items())

    def refresh(self) -> None:
        """Take the values of this moment."""
        for key, value in self._now():
            if key in self.tensors:  # NumPy may have been imported since
                self.tensors[key].copy_(value)

    def apply(self, generators: bool) -> None:
        """Give generators and buffers the values of the tensors."""
        for name, buffer in self._buffers():
            saved = self.tensors[f"buffer/{name}"]
            buffer.copy_(torch.view_as_complex(saved) if buffer.is_complex() else saved)
        if not generators:
            return
        torch.set_rng_state(self.tensors["rng/torch"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self.tensors["rng/cuda"], self._device)
        filled, gauss = self.tensors["rng/python_gauss"].tolist()
        random.setstate((3, tuple(self.tensors["rng/python"].tolist()), gauss if filled else None))
        if "rng/numpy" in self.tensors:
            *words, position = self.tensors["rng/numpy"].tolist()
            filled, gauss = self.tensors["rng/numpy_gauss"].tolist()
            sys.modules["numpy"].random.set_state((NUMPY_GENERATOR, words, position, int(filled), gauss))


def _numpy_state() -> Iterator[tuple[str, Tensor]]:
    """NumPy's global generator, where NumPy is imported; one of another kind, set by the user, is the user's."""
    numpy = sys.modules.get("numpy")
    kind, *state = (None,) if numpy is None else numpy.random.get_state(legacy=False).values()
    if kind != NUMPY_GENERATOR:
        return
    inner, filled, gauss = state
    yield "rng/numpy", torch.tensor([*inner["key"].tolist(), inner["pos"]], dtype=torch.int64)
    yield "rng/numpy_gauss", torch.tensor([filled, gauss], dtype=torch.float64)


class EngineState:
    """Saves and loads the state of an engine."""

    def __init__(self, engine: EngineParts):
        self._engine, self._comm, self._storage = weakref.proxy(engine), engine.comm, engine.storage
        self._master = Across(MASTERS[engine.numerics.master])
        self._exchange: Exchange | None = None
        self._own = Own(engine.module, engine.kept, engine.device)

    @property
    def exchange(self) -> Exchange:
        """Messages between the ranks; asking for the first time is a collective."""
        self._exchange = self._exchange or Exchange()
        return self._exchange

    # -- what there is -----------------------------------------------------------------------------------------------

    def pieces(self) -> list[Piece]:
        """This rank's part of what is saved: every element on one rank."""
        shared = self.shares()
        own = (whole(f"rank{self._comm.rank}/{key}", value) for key, value in self._own.tensors.items())
        return [*shared, *own, *self._partial_states()]

    def shares(self) -> list[Piece]:
        """This rank's part of the tensors that ranks share: every element on one rank."""
        return [piece.share(*home.replica(self._comm.mesh)) for piece, home in self._shared()]

    def held(self) -> list[Piece]:
        """What this rank holds of the tensors that ranks share."""
        return [piece for piece, _ in self._shared()]

    def _shared(self) -> Iterator[tuple[Piece, Home]]:
        """What this rank holds of the tensors that ranks share, and at which home."""
        everywhere = placement.whole(self._comm.mesh)
        yield from self._weights()
        yield from ((piece, home) for home, piece in self._state_pieces() if not home.apart)
        kept = {f"optimizer.{name}": value for name, value in self._storage.states.kept.items()}
        yield from ((whole(name, value), everywhere) for name, value in (kept | self._counters()).items())

    def _weights(self) -> Iterator[tuple[Piece, Home]]:
        stage, mesh = self._storage.stage, self._comm.mesh
        for unit in self._engine.units:
            if not unit.trainable and not self._engine.save_frozen:
                continue
            home = stage.optimizer if unit.trainable else stage.parameter
            mine = unit.layout.held(home, mesh)
            for index, name in enumerate(unit.names):
                inside, place = unit.layout.overlap(index, mine)
                facts, weight = (WEIGHT + name, tuple(unit.shapes[index]), inside.start), unit.weight.at(place)
                if unit.extra is None:
                    yield Piece(*facts, weight.dtype, (weight,)), home
                else:
                    views = (weight, unit.extra.at(place))
                    yield Piece(*facts, torch.float32, views, self._master.load, self._master.store), home

    def _partial_states(self) -> Iterator[Piece]:
        """Optimizer states that each rank has a whole one of: each saves its own."""
        for home, piece in self._state_pieces():
            if home.apart:
                yield replace(piece, name=f"rank{self._comm.rank}/{piece.name}")

    def _state_pieces(self) -> Iterator[tuple[Home, Piece]]:
        states = self._storage.states
        shapes = {name: unit.shapes[i] for unit in self._storage.trainable for i, name in enumerate(unit.names)}
        for part in states.slices():
            whole_shape = shapes[part.parameter]
            shape = tuple(whole_shape) if part.size == whole_shape.numel() else (part.size,)
            name = tensor_name(part.name, part.parameter)
            yield states.home(part.name), Piece(name, shape, part.start, part.values.dtype, (part.values,))

    def _counters(self) -> dict[str, Tensor]:
        engine = self._engine
        counters = {
            "engine/lr": engine._lr,
            "engine/momentum": engine._momentum,
            "engine/steps_taken": engine.steps_taken,
            "engine/steps_skipped": engine.steps_skipped,
            "engine/skips_in_a_row": engine._skips_in_a_row,
            "engine/grad_norm": engine.grad_norm,
            "engine/token_unit": engine.micro_batch.token_unit,
        }
        if engine.unused is not None:
            counters["engine/unused_steps"] = engine.unused.lag
        scaler = engine.numerics.scaler
        return counters | ({} if scaler is None else {f"scaler/{k}": v for k, v in scaler.state().items()})

    def facts(self) -> dict[str, Any]:
        """What a manifest says about the engine."""
        engine = self._engine
        stage = next(number for number, stage in STAGES.items() if stage == engine.declared)
        return {"stage": stage, "compute": str(engine.numerics.compute).removeprefix("torch.")}

    def refresh(self, within_step: bool = False) -> None:
        """Before saving: take this moment's generators and buffers; make sure that no step is under way.

        Raises:
            RuntimeError: between two micro-batches of a step, unless `within_step` says that it may be.
        """
        if self._engine.micro_batches and not within_step:
            raise RuntimeError(
                f"A state can be saved between steps only; {self._engine.micro_batches} of {self._engine.accumulation} "
                "micro-batches of this one are done. Call engine.step() first."
            )
        self._own.refresh()

    def follow_updates(self) -> None:
        """Let what reads the state from here on see all that updates have written; the host too, where it reads what
        lies there."""
        self._comm.updated()
        if self._storage.on_host:
            self._comm.returns.synchronize()

    # -- saving and loading ------------------------------------------------------------------------------------------

    def save(self, path: Path, facts: Mapping[str, Any] | None = None, user: Any = None,
             extra: Sequence[Piece] = (), disk: Disk | None = None,
             within_step: bool = False) -> None:  # fmt: skip
        """Write the state `path` and return when it is durable; see `Engine.save`.

        extra: more pieces of this rank. within_step: also while a step is under way, whose gradients are not in it.
        """
        check_json(user)
        self.refresh(within_step)
        self.follow_updates()
        file = RankFile([*self.pieces(), *extra])
        save_state(path, file, file.stream, self.exchange, {**self.facts(), **(facts or {})}, user, disk)

    def load(self, path: Path, extra: Sequence[Piece] = (), optional: Sequence[str] = (), generators: bool = True,
             manifest: Manifest | None = None, weights_only: bool = False) -> Manifest:  # fmt: skip
        """Take the state `path`; see `Engine.load`. weights_only: with the buffers, and nothing else.

        extra: more pieces of this rank, left as they are where the state has none. optional: prefixes of names that
        may be missing in the state, or not be wanted here (tensors that are missing keep their values). manifest: of
        the state, if it has been verified.
        """
        manifest = manifest or verify(path, self.exchange)
        optional = (*optional, "optimizer.") if weights_only else tuple(optional)
        converted = [] if weights_only else list(conversions(self._storage, manifest.tensors))
        replaced = {name for conversion in converted for name in conversion.replaced}
        wanted = [piece for piece in self._wanted(manifest, optional) if piece.name not in replaced]
        wanted += [piece for conversion in converted for piece in conversion.pieces]
        own = self._own_pieces(manifest, [*extra])
        if weights_only:
            wanted = [piece for piece in wanted if piece.name.startswith(WEIGHT)]
            own = [piece for piece in own if "/buffer/" in piece.name]
        self._check(manifest, [*wanted, *own], optional, path)
        self.settle()

        def read() -> None:
            with StateReader(path, manifest) as reader:
                restore(reader, [*wanted, *own])

        with torch.no_grad():
            for piece in () if weights_only else self._partial_states():
                piece.views[0].zero_()
            if self._engine.unused is not None:
                self._engine.unused.lag.zero_()  # states of before do not have it
            together(self.exchange, path, read)
            for conversion in converted:
                conversion.finish()
            if weights_only:
                self._engine._update.start_states(self._comm)
            same_rank = any(piece.name.endswith("rng/torch") for piece in own)
            self._own.apply(generators and same_rank)
        self.written()
        return manifest

    def _wanted(self, manifest: Manifest, optional: Sequence[str]) -> list[Piece]:
        optional = ("scaler/", "engine/", *optional)
        pieces = [piece for piece, _ in self._shared() if len(piece)]
        return [p for p in pieces if p.name in manifest.tensors or not p.name.startswith(tuple(optional))]

    def _check(self, manifest: Manifest, pieces: list[Piece], optional: tuple[str, ...], path: Path) -> None:
        """Raise StateMismatch on every rank if the state does not fit the engine of any."""
        problem = None
        try:
            check_fits(manifest, pieces, str(path))
            foreign = [name for name in manifest.tensors if self._is_foreign(name) and not name.startswith(optional)]
            if foreign:
                raise StateMismatch(f"{path} is a state of another training: it has '{foreign[0]}', which is not here.")
        except StateMismatch as error:
            problem = str(error)
        for found in self.exchange.gather(problem):
            if found is not None:
                raise StateMismatch(found)

    def _is_foreign(self, name: str) -> bool:
        """Whether a state's tensor is a weight or optimizer state that this engine does not have."""
        states = self._storage.states
        kind, _, parameter = name.partition("/")
        if kind.startswith("optimizer."):
            return kind.removeprefix("optimizer.") not in {*states.declared, *states.kept} | readable(self._storage)
        return name.startswith(WEIGHT) and not any(parameter in unit.names for unit in self._engine.units)

    def _own_pieces(self, manifest: Manifest, extra: list[Piece]) -> list[Piece]:
        """This rank's own tensors as far as the state has them; where it was of another world, buffers of rank 0, and
        no states that each rank has a whole one of."""
        same_world = manifest.facts.get("world") == self._comm.world
        pieces = []
        for key, value in self._own.tensors.items():
            rank = 0 if key.startswith("buffer/") and not same_world else self._comm.rank
            pieces.append(whole(f"rank{rank}/{key}", value))
        if same_world:
            pieces += self._partial_states()
        return [piece for piece in (*pieces, *extra) if piece.name in manifest.tensors]

    def settle(self) -> None:
        """Wait until nothing reads or writes the state any more, on any rank."""
        engine = self._engine
        engine.gatherer.settle()
        engine.gatherer.finish()
        self._comm.join()
        _synchronize(engine.device)
        self.exchange.gather(None)
        self._own.refresh()

    def written(self) -> None:
        """The state has been written by the compute stream: whole weights are gathered from it again."""
        engine = self._engine
        _synchronize(engine.device)
        engine.forget_events()
        self._comm.fork()
        self.exchange.gather(None)
        engine.gatherer.invalidate()
        engine.gatherer.weights_changed()
        engine.states_changed()

    # -- whole weights -----------------------------------------------------------------------------------------------

    def load_full(self, weights: Mapping[str, Tensor], strict: bool) -> None:
        """Take whole weights by name; see `Engine.load_full_state_dict`."""
        engine = self._engine
        names = [name for unit in engine.units for name in unit.names]
        aliases = {name for name, _ in engine.module.named_parameters(remove_duplicate=False)}
        buffers = {name for name, _ in self._own._buffers()}
        missing = [name for name in names if name not in weights]
        foreign = [name for name in weights if name not in aliases | buffers]
        if strict and (missing or foreign):
            raise ValueError(
                f"These weights are not those of the model: missing {missing[:3] or 'none'}, unknown "
                f"{foreign[:3] or 'none'}; strict=False loads what fits."
            )
        for unit in engine.units:
            for name, shape in zip(unit.names, unit.shapes, strict=True):
                if name in weights and weights[name].shape != shape:
                    raise ValueError(f"'{name}': expected the shape {tuple(shape)}, got {tuple(weights[name].shape)}.")
        self.settle()
        writer = Materializer(self._storage, self._master, self._comm)
        with torch.no_grad():
            for unit in engine.units:
                for name, parameter in zip(unit.names, unit.parameters, strict=True):
                    if name in weights:
                        writer.write(parameter, weights[name])
            engine._update.start_states(self._comm)
            for name, buffer in self._own._buffers():
                if name in weights:
                    buffer.copy_(weights[name])
        self.written()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
