"""The one model of all systems, and its first values, which no system changes.

[Note: first values] Every module initialises itself in fp32 on the compute device, under a generator seeded by the
run's seed and the module's name, exactly as zerokit does it. Systems whose master weights are fp32 start from these
values; those that make their masters from a bf16 model start from the values rounded to bf16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from bench.cases import Case
from zerokit.config.data_info import DataInfo
from zerokit.model._families import build_gpt, build_llama
from zerokit.model.gpt import GPTOptions
from zerokit.model.llama import LlamaOptions
from zerokit.zero.materialize import module_seed


def options_of(case: Case) -> Any:
    """The options of zerokit's model that the case's sizes stand for."""
    kind, keys = {"llama": (LlamaOptions, ("kv_heads",)), "gpt": (GPTOptions, ())}[case.family]
    sizes = {key: getattr(case, key) for key in ("dim", "layers", "heads", "hidden", *keys)}
    return kind(**sizes, tied=False)


def build(case: Case) -> nn.Module:
    """zerokit's decoder of the case's family and sizes, on the meta device."""
    info = DataInfo("tokens", case.seq_len, case.vocab_size, None, None, "", "benchmark", None)
    with torch.device("meta"):
        return {"llama": build_llama, "gpt": build_gpt}[case.family](options_of(case), info)


def first_values(model: nn.Module, seed: int, device: torch.device) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Module, name and whole fp32 value of every parameter, module by module. Buffers get their values on the way."""
    for name, module in model.named_modules():
        own = {key: p for key, p in module._parameters.items() if p is not None}
        buffers = {key: b for key, b in module._buffers.items() if b is not None}
        if not own and not buffers:
            continue
        module._parameters.update({key: nn.Parameter(torch.empty(p.shape, device=device)) for key, p in own.items()})
        module._buffers.update({key: torch.empty_like(buffer, device=device) for key, buffer in buffers.items()})
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device), torch.no_grad():
            torch.manual_seed(module_seed(seed, name))
            module.reset_parameters()
        values = {key: module._parameters[key].detach() for key in own}
        module._parameters.update(own)
        for key in own:
            yield module, key, values.pop(key)


def materialise(model: nn.Module, seed: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Give a meta model whole parameters of `dtype`. Buffers keep their dtype."""
    for module, key, value in first_values(model, seed, device):
        module._parameters[key] = nn.Parameter(value.to(dtype))
    return model


def fill_shards(model: nn.Module, seed: int, device: torch.device) -> nn.Module:
    """Give a model of DTensor parameters on the meta device its storage and this rank's part of the values."""
    model.to_empty(device=device)
    with torch.no_grad():
        for module, key, value in first_values(model, seed, device):
            parameter = module._parameters[key]
            if not isinstance(parameter, DTensor):
                raise TypeError(f"{key} of {type(module).__name__} is no DTensor but {type(parameter).__name__}.")
            mine = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
            parameter.to_local().copy_(mine.to_local())
    return model
