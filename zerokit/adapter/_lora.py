"""peft's LoRA layers in a model, which stays the module that it was."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from zerokit.config.errors import ConfigError, suggestion

ADAPTER = "default"
"""peft's name of a model's only adapter, which is part of the names of its weights."""


class _Zeros(nn.Linear):
    """The second matrix of a product, which begins as zero, so that the model begins as it was."""

    resets_itself = True

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class _Drawn(nn.Linear):
    """The first matrix of a product; peft draws it as torch draws a linear layer."""

    resets_itself = True


def build(options: Any, model: nn.Module) -> nn.Module:
    """The model with LoRA layers, which alone are trained.

    Raises:
        ConfigError: peft is not installed, or a target names no linear layer.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError("adapter=lora needs a package: pip install 'zerokit[hf]'.") from error
    linear = linear_layers(model)
    targets = _targets(options.targets, linear)
    meta = any(parameter.is_meta for parameter in model.parameters())
    config = peft.LoraConfig(
        r=options.r, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=targets, bias="none"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of models that peft does not know by name
        peft.inject_adapter_in_model(config, model, ADAPTER, low_cpu_mem_usage=meta)
    for module in model.modules():
        for name, kind in (("lora_A", _Drawn), ("lora_B", _Zeros)):
            if ADAPTER in getattr(module, name, ()):
                getattr(module, name)[ADAPTER].__class__ = kind
    return model


def linear_layers(model: nn.Module) -> list[str]:
    """Names of the linear layers but the output layer: of torch, and GPT-2's, which holds its weight transposed."""
    getter = getattr(model, "get_output_embeddings", None)
    head = getattr(model, "head", None) if getter is None else getter()
    return [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and module is not head
    ]


def _targets(wanted: list[str], linear: list[str]) -> list[str]:
    """The linear layers that are meant, by their whole names."""
    if wanted == ["all-linear"]:
        return linear
    for target in wanted:
        if not any(_is(name, target) for name in linear):
            last = sorted({name.rpartition(".")[2] for name in linear})
            raise ConfigError(
                f"adapter.targets: '{target}' is no linear layer of the model.{suggestion(target, last)} Such are "
                f"{', '.join(last)}; all-linear takes all."
            )
    return [name for name in linear if any(_is(name, target) for target in wanted)]


def _is(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
