"""`deepspeed.zero`: building a model without a copy on every rank, and whole parameters for a while."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from zerokit.compat.deepspeed import comm
from zerokit.compat.deepspeed.membership import membership_of
from zerokit.compat.deepspeed.source import load
from zerokit.compat.deepspeed.translation import translate


class Init:
    """Modules made in this block have values on rank 0 alone, on the other ranks shapes: `initialize` hands the values
    out one parameter at a time. So a host holds the model once, not once per rank.

    Other arguments are DeepSpeed's and not needed; the format of the weights follows from the JSON.
    """

    def __init__(self, module: nn.Module | None = None, data_parallel_group: Any = None,
                 mem_efficient_linear: bool = True, remote_device: Any = None, pin_memory: bool = False,
                 config_dict_or_path: Any = None, config: Any = None, enabled: bool = True,
                 dtype: torch.dtype | None = None, mpu: Any = None, **_: Any):  # fmt: skip
        given = config if config_dict_or_path is None else config_dict_or_path
        if given is not None:
            translate({key: value for key, value in load(given).items() if value != "auto"})
        self._meta = torch.device("meta") if enabled and comm.get_rank() > 0 else None

    def __enter__(self) -> Init:
        if self._meta is not None:
            self._meta.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._meta is not None:
            self._meta.__exit__(*error)


class GatheredParameters:
    """Whole parameters, in the format of the weights, for the time of the block. All ranks enter together.

    modifier_rank: the rank whose changes are kept, in the masters too, where elements differ. Without it changes are an
    error: at some stages they would be lost, at others ranks would differ. Before `initialize` the parameters are whole
    anyway, and rank 0's values count.
    """

    def __init__(self, params: nn.Parameter | Iterable[nn.Parameter], modifier_rank: int | None = None,
                 fwd_module: nn.Module | None = None, enabled: bool = True):  # fmt: skip
        listed = [params] if isinstance(params, torch.Tensor) else list(params)
        self._params = list(dict.fromkeys(listed)) if enabled else []
        self._source = modifier_rank
        self._blocks: list[Any] = []
        self._versions: list[tuple[nn.Parameter, int]] = []

    def __enter__(self) -> None:
        names: dict[Any, list[str]] = {}
        for parameter in self._params:
            member = membership_of(parameter)
            if member is not None:
                names.setdefault(member.engine, []).append(member.name)
        if not names and self._params and self._source not in (None, 0) and comm.get_world_size() > 1:
            raise ValueError("Before deepspeed.initialize rank 0's values count: use modifier_rank=0.")
        for engine, found in names.items():
            block = engine.values.copies(found, self._source)
            block.__enter__()
            self._blocks.append(block)
        if names and self._source is None:
            self._versions = [(parameter, parameter._version) for parameter in self._params]

    def __exit__(self, *error: Any) -> None:
        changed = [parameter for parameter, version in self._versions if parameter._version != version]
        for block in self._blocks:
            block.__exit__(*error)
        if changed and error[0] is None:
            raise RuntimeError(
                f"{len(changed)} gathered parameters were changed, but no modifier_rank says whose changes count; they "
                "are dropped. Write GatheredParameters(params, modifier_rank=0)."
            )


def register_external_parameter(module: nn.Module, parameter: nn.Parameter) -> None:
    """Not needed for parameters of modules that are no units of their own (zero.units, zero.min_unit)."""


def unregister_external_parameter(module: nn.Module, parameter: nn.Parameter) -> None:
    """The counterpart of `register_external_parameter`."""
