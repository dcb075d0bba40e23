"""A saved training as a model for others: Llama in the naming of Hugging Face, other models in their own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from zerokit.config import registry
from zerokit.config.errors import ConfigError
from zerokit.config.parse import parse_fields
from zerokit.config.registry import Choice
from zerokit.model._huggingface import Rows, llama_config, llama_tensors
from zerokit.state.errors import DamagedState
from zerokit.state.export import NAMED, Output, Reader, values_of, write_model
from zerokit.state.manifest import Manifest
from zerokit.state.piece import CHUNK
from zerokit.state.read import StateReader, verify
from zerokit.train.folders import describe_adapter, describe_model
from zerokit.zero.access.convert import tensor_name
from zerokit.zero.engine import Engine

WEIGHT = "weight/"
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""torch's names of the formats by ours."""


def export(state: Path, target: Path, dtype: str = "float32") -> list[str]:
    """Write the weights of the state in the folder `state` as a model into the new folder `target`; return the files.

    dtype: name of torch's format for them.

    Every byte of the state is verified first. Optimizers that evaluate other weights than they train give those.

    Raises:
        DamagedState: the file that is not as it was written. StateError: `target` is not empty.
    """
    manifest = verify(state)
    shapes = {n.removeprefix(WEIGHT): t.shape for n, t in manifest.tensors.items() if n.startswith(WEIGHT)}
    config = manifest.facts.get("config") or {}
    try:
        found = layout(config, shapes, manifest.facts.get("classes") or ())
        if "optimizer" in config:
            outputs = [_evaluated(output, config["optimizer"], manifest) for output in found.outputs]
            found = replace(found, outputs=outputs)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__} {error}"
        raise DamagedState(f"{state}: what it says of its model is malformed: {problem}.") from error
    with StateReader(state, manifest) as reader:
        return found.write(reader, dtype, target)


def export_final(engine: Engine, config: Mapping[str, Any], target: Path, dtype: str) -> list[str]:
    """Write the weights that an engine holds, as `export` those of a state; what is in `target` gives way. A
    collective: rank 0 writes, one unit is whole at a time; the others return nothing.

    config: of the run. dtype: name of torch's format.

    Raises:
        OSError: it cannot be written; the other ranks do not hear of it.
    """
    with engine.evaluating():
        weights = engine.reader.whole_weights()
        try:
            if engine.comm.rank:
                return []
            shapes = dict(sorted(_shapes(engine).items()))
            found = layout(config, shapes, classes_of(engine.module))
            order = {name: place for place, name in enumerate(shapes)}
            found.outputs.sort(key=lambda output: (order[output.source.removeprefix(WEIGHT)], output.start))
            return found.write(_Gathered(weights), dtype, target, replace=True)
        finally:
            for _ in weights:  # every rank takes part in every gather
                pass


class _Gathered:
    """Whole weights by name, asked for in the order in which they come."""

    def __init__(self, weights: Iterator[tuple[str, Tensor]]):
        self._weights = weights
        self._name, self._value = "", torch.empty(0)

    def segments(self, name: str, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Elements `[start, stop)` of a weight, flat, on the CPU, at most CHUNK at a time."""
        while self._name != name.removeprefix(WEIGHT):
            self._name, self._value = next(self._weights)
        flat = self._value.reshape(-1)
        for begin in range(start, stop, CHUNK):
            yield begin - start, flat[begin : min(begin + CHUNK, stop)].cpu()


def _shapes(engine: Engine) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for unit in engine.units for name, shape in zip(unit.names, unit.shapes, strict=True)}


@dataclass(frozen=True)
class Layout:
    """The tensors that other programs expect of a model, and what `write_model` takes beside them."""

    outputs: list[Output]
    config: dict[str, Any]
    names: tuple[str, str] = NAMED
    files: dict[str, bytes] = field(default_factory=dict)

    def write(self, reader: Reader, dtype: str, target: Path, replace: bool = False) -> list[str]:
        """See `write_model`."""
        kinds = {"replace": replace, "names": self.names, "files": self.files}
        return write_model(reader, self.outputs, getattr(torch, dtype), self.config, target, **kinds)


def classes_of(model: nn.Module) -> list[str]:
    """The names of the classes that a model of `model=hf` tells apart, in their order; none if they have none."""
    names = list((getattr(getattr(model, "config", None), "id2label", None) or {}).values())
    return [] if all(str(name).startswith("LABEL_") for name in names) else names


def layout(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], classes: Sequence[str] = ()) -> Layout:
    """The model of a run with this config, from our tensors of these shapes. classes: by their names.

    Raises:
        ConfigError: the config does not tell something that others need.
    """
    model: dict[str, Any] = config.get("model") or {}
    adapter = config.get("adapter") or {}
    if adapter.get("name", "none") != "none" or model.get("name") == "hf":
        lora = adapter.get("name") == "lora"
        found = describe_adapter(model, adapter, shapes) if lora else describe_model(model, shapes, classes)
        outputs = [_output(theirs, Rows(ours), shapes[ours]) for theirs, ours in found.names.items()]
        return Layout(outputs, found.described, (found.stem, found.config), found.files)
    if model.get("name") == "llama":
        tensors = llama_tensors(model, shapes)
        described = llama_config(model, shapes["embedding.weight"][0], _context(config))
    else:
        tensors = {name: Rows(name) for name in shapes}
        described = {"model_type": "zerokit", "model": model}
    return Layout([_output(name, rows, shapes[rows.source]) for name, rows in tensors.items()], described)


def weights_of_state(state: Path) -> dict[str, Tensor]:
    """The whole fp32 weights to evaluate of a saved state, by our names, on the CPU.

    Raises:
        DamagedState: a file is not as it was written.
    """
    manifest = verify(state)
    shapes = {n.removeprefix(WEIGHT): t.shape for n, t in manifest.tensors.items() if n.startswith(WEIGHT)}
    optimizer, found = (manifest.facts.get("config") or {}).get("optimizer"), {}
    with StateReader(state, manifest) as reader:
        for name, shape in shapes.items():
            output = _output(name, Rows(name), shape)
            output = output if optimizer is None else _evaluated(output, optimizer, manifest)
            found[name] = torch.cat([values.float() for _, values in values_of(reader, output)]).view(shape)
    return found


def weights_of_export(engine: Engine, config: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """The same of a model that `export` or the end of a run has written, for an engine with its model."""
    read: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        read |= load_file(file)
    shapes = _shapes(engine)
    outputs = layout(config, shapes).outputs
    held = {output.source.removeprefix(WEIGHT) for output in outputs}  # an adapter's alone, or all
    found = {name: torch.empty(shape) for name, shape in shapes.items() if name in held}
    for output in outputs:
        flat = found[output.source.removeprefix(WEIGHT)].view(-1)
        flat[output.start : output.start + output.numel] = read[output.name].float().flatten()
    return found


def _output(name: str, rows: Rows, shape: tuple[int, ...]) -> Output:
    if rows.stop is None:
        return Output(name, WEIGHT + rows.source, 0, shape)
    row = math.prod(shape[1:])
    return Output(name, WEIGHT + rows.source, rows.start * row, (rows.stop - rows.start, *shape[1:]))


def _evaluated(output: Output, options: dict[str, Any], manifest: Manifest) -> Output:
    """The weights to evaluate, where the optimizer (such as a schedule-free one) trains others."""
    name, kept = options["name"], {key: value for key, value in options.items() if key != "name"}
    kind = registry.options_type("optimizer", name)
    optimizer = registry.build("optimizer", Choice(name, parse_fields(kind, kept, "optimizer")))
    parameter = output.source.removeprefix(WEIGHT)
    rule = optimizer.rule(parameter, len(manifest.tensors[output.source].shape))
    states = tuple(tensor_name(state, parameter) for state in rule.evaluates)
    if rule.evaluate is None or not set(states) <= manifest.tensors.keys():  # frozen ones have no states
        return output
    return replace(output, function=rule.evaluate, others=states)


def _context(config: Mapping[str, Any]) -> int:
    context = config["model"].get("context") or config["data"].get("seq_len")
    if context is None:
        raise ConfigError("model.context: the longest sequence is unknown; the state was saved without data.seq_len.")
    return context
