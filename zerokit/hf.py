"""Models of `transformers` in loops of one's own: `load` one for `zerokit.initialize`, `save` what an engine trained.

model = zerokit.hf.load("DIR")
engine = zerokit.initialize(model, {"zero": {"stage": 3}, "precision": "bf16"})
...
zerokit.hf.save(engine, "trained")  # every rank calls it
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from zerokit.config.errors import ConfigError
from zerokit.config.parse import parse_fields, to_plain
from zerokit.model._hf.build import build
from zerokit.model._hf.packages import load_package
from zerokit.model.hf import HuggingFaceOptions
from zerokit.train.export import DTYPES, export_final
from zerokit.zero.engine import Engine


def load(path: str | Path, **options: Any) -> nn.Module:
    """The model of a folder without values, which `zerokit.initialize` reads part by part into the ranks.

    options: of `model=hf` by name, such as task="masked_lm", init="random", attention="sdpa".

    Raises:
        ConfigError: there is no such model, or no such option.
    """
    return build(parse_fields(HuggingFaceOptions, {"path": str(path), **options}, "model"))


def save(engine: Engine, folder: str | Path, dtype: str = "bf16") -> list[str]:
    """Write the model of an engine, made by `load`, into a folder that `from_pretrained` loads: weights as fp32, bf16
    or fp16, configuration, tokenizer, generation config; return the files. What is there gives way. Every rank calls
    it; rank 0 writes, and gets their names.

    Raises:
        ConfigError: the model is not one of `load`, or there is no such format.
    """
    options = getattr(engine.module, "options", None)
    if options is None:
        raise ConfigError(f"zerokit.hf.save: {type(engine.module).__name__} was not made by zerokit.hf.load.")
    if dtype not in DTYPES:
        raise ConfigError(f"zerokit.hf.save: expected dtype as one of {', '.join(DTYPES)}; got {dtype!r}.")
    config = {"model": {"name": "hf", **to_plain(options)}}
    return export_final(engine, config, Path(folder), DTYPES[dtype])


def module(folder: str | Path) -> nn.Module:
    """The model in a folder that a run has left or `save` has written, with its values, on the CPU: `zerokit.load`.

    folder: of a run (its `model` is taken), of a model, or of an adapter, which comes beside its base.

    Raises:
        ConfigError: there is no model that `transformers` or `peft` loads.
    """
    folder = Path(folder).expanduser()
    if (folder / "model").is_dir():
        folder = folder / "model"
    if (folder / "adapter_config.json").is_file():
        return _adapted(folder)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no model: it has neither config.json nor adapter_config.json.")
    transformers = load_package("transformers", "zerokit.load")
    kinds = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    kind = getattr(transformers, kinds[0], None)
    if kind is None:
        raise ConfigError(f"{folder}/config.json names no architecture of transformers ({kinds[0] or 'none'}).")
    return kind.from_pretrained(folder)


def _adapted(folder: Path) -> nn.Module:
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    if base is None:
        raise ConfigError(f"{folder}/adapter_config.json does not say where its base is (base_model_name_or_path).")
    model = module(base)
    return load_package("peft", "zerokit.load").PeftModel.from_pretrained(model, folder)
