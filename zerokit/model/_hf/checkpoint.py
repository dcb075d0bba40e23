"""Weights of a folder by the names of a model, each read from its file when it is asked for, and only as far as used.

The files are mapped into memory: a tensor that is not looked at is not read. Checkpoints whose names or shapes are
those of earlier versions (a tensor for each expert, for one) go through `transformers`' own table of conversions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zerokit.config.errors import ConfigError
from zerokit.model._hf.folder import weight_files

Read = Callable[[], Tensor]


class Checkpoint:
    """The tensors of a folder, in the names of `model`.

    reads: how each tensor is read; shapes: of those that are stored as the model has them. unknown: names in the files
    that the model does not have.
    """

    def __init__(self, folder: Path, model: nn.Module):
        self.reads: dict[str, Read] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.unknown: list[str] = []
        self._converted: tuple[Any, Mapping[str, Tensor]] = (None, {})
        self._collect(folder, model)

    def _collect(self, folder: Path, model: nn.Module) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

        table = get_model_conversion_mapping(model) or []
        renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in table if isinstance(entry, WeightConverter)]
        of_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
        known, prefix = model.state_dict(), model.base_model_prefix
        conversions: dict[str, Any] = {}
        stored = {name: place for file in weight_files(folder) for name, place in _names(file)}
        for name in sorted(stored, key=dot_natural_key):
            handle, shape = stored[name]
            read = partial(handle.get_tensor, name)
            renamed, pattern = rename_source_key(name, renamings, converters, prefix, known)
            if renamed not in known and name in known:
                renamed, pattern = name, None
            if renamed not in known:
                self.unknown.append(name)
            elif pattern is None:
                self.reads[renamed], self.shapes[renamed] = read, shape
            else:
                conversion = conversions.setdefault(renamed, deepcopy(of_pattern[pattern]))
                conversion.add_tensor(renamed, name, pattern, read)
        for first, conversion in conversions.items():
            for target in _targets(first, conversion):
                self.reads[target] = partial(self._convert, first, conversion, target, model)

    def _convert(self, first: str, conversion: Any, target: str, model: nn.Module) -> Tensor:
        """A tensor that is made of several stored ones, or part of one; the last conversion is kept for its others."""
        if self._converted[0] is not conversion:
            made = deepcopy(conversion).convert(first, model=model, config=model.config)
            made = {name: value[0] if isinstance(value, list) else value for name, value in made.items()}
            self._converted = (conversion, made)
        return self._converted[1][target]


def _names(file: Path) -> list[tuple[str, tuple[Any, tuple[int, ...]]]]:
    try:
        handle = safe_open(file, "pt")
        return [(name, (handle, tuple(handle.get_slice(name).get_shape()))) for name in handle.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file} cannot be read: {error}. Fetch or save it again.") from error


def _targets(first: str, conversion: Any) -> list[str]:
    """The names of the tensors that a conversion makes; `first` is that of its first."""
    begin = conversion.target_patterns[0]
    return [first.replace(begin, pattern) for pattern in conversion.target_patterns]


def stored_weights(folder: Path, model: nn.Module, may_lack: Callable[[str], bool]) -> dict[Tensor, Read]:
    """How each parameter and buffer of a model on the meta device is read from the files of a folder.

    may_lack: whether a tensor of this name may be missing or have another shape; it is left out then.

    Raises:
        ConfigError: the folder lacks a weight, or has one of another shape.
    """
    checkpoint = Checkpoint(folder, model)
    named = {name: tensor for name, tensor in (*model.named_parameters(), *_buffers(model))}
    aliases: dict[Tensor, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(tensor, []).append(name)
    found: dict[Tensor, Read] = {}
    missing = []
    for name, tensor in named.items():
        here = next((alias for alias in aliases.get(tensor, [name]) if alias in checkpoint.reads), None)
        if here is None:
            missing.append(name)
            continue
        shape = checkpoint.shapes.get(here, tuple(tensor.shape))
        if shape == tuple(tensor.shape):
            found[tensor] = checkpoint.reads[here]
        elif may_lack(name):
            missing.append(name)
        else:
            raise ConfigError(
                f"model.path={folder}: '{here}' has the shape {list(shape)} in the files, and {CONFIG_SAYS} "
                f"{list(tensor.shape)}. Is it the folder of another model?"
            )
    lacking = [name for name in missing if not may_lack(name) and isinstance(named[name], nn.Parameter)]
    if lacking:
        raise ConfigError(_lacks(folder, lacking, bool(found), checkpoint.unknown))
    return found


CONFIG_SAYS = "by config.json it has"


def _lacks(folder: Path, names: list[str], some: bool, unknown: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    other = f" (they have '{unknown[0]}')" if unknown and not some else ""
    return (
        f"model.path={folder}: the files have no '{names[0]}'{more}{other}. Is another model.task meant? "
        "model.missing=random lets what is missing start anew."
    )


def _buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [
        (f"{path}.{key}".lstrip("."), buffer)
        for path, module in model.named_modules()
        for key, buffer in module._buffers.items()
        if buffer is not None and key not in module._non_persistent_buffers_set
    ]


def report(found: Mapping[Tensor, Read], model: nn.Module) -> str | None:
    """What a model starts with beside the weights that were found, in a line; None if nothing."""
    new = [name for name, parameter in model.named_parameters() if parameter not in found]
    shown = ", ".join(new[:4]) + (f" and {len(new) - 4} more" if len(new) > 4 else "")
    return f"not in the folder, so they start at random: {shown}" if new else None
