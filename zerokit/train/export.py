"""A saved training as a model for others: Llama in the naming of Hugging Face, other models in their own."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zerokit.config import registry
from zerokit.config.errors import ConfigError
from zerokit.config.parse import parse_fields
from zerokit.config.registry import Choice
from zerokit.model._huggingface import Rows, llama_config, llama_tensors
from zerokit.state.export import Output, write_model
from zerokit.state.manifest import Manifest
from zerokit.state.read import StateReader, verify

WEIGHT = "weight/"


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
    model: dict[str, Any] = config.get("model") or {}
    if model.get("name") == "llama":
        tensors = llama_tensors(model, shapes)
        described = llama_config(model, shapes["embedding.weight"][0], _context(config, manifest))
    else:
        tensors = {name: Rows(name) for name in shapes}
        described = {"model_type": "zerokit", "model": model}
    outputs = [_output(name, rows, shapes[rows.source]) for name, rows in tensors.items()]
    if "optimizer" in config:
        outputs = [_evaluated(output, config["optimizer"], manifest) for output in outputs]
    with StateReader(state, manifest) as reader:
        return write_model(reader, outputs, getattr(torch, dtype), described, target)


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
    states = tuple(f"optimizer.{state.name}/{parameter}" for state in rule.states if state.along is None)
    if rule.evaluate is None or not set(states) <= manifest.tensors.keys():  # frozen ones have no states
        return output
    return replace(output, function=rule.evaluate, others=states)


def _context(config: dict[str, Any], manifest: Manifest) -> int:
    context = config["model"].get("context") or config["data"].get("seq_len")
    if context is None:
        raise ConfigError("model.context: the longest sequence is unknown; the state was saved without data.seq_len.")
    return context
