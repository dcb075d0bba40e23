"""`deepspeed.zero`: building a model without a copy on every rank, and whole parameters for a while."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from itertools import count
from typing import Any

import torch
from torch import nn

from zerokit.compat.deepspeed import comm
from zerokit.compat.deepspeed.membership import ZeroParamStatus, is_zero_param, membership_of
from zerokit.compat.deepspeed.source import load
from zerokit.compat.deepspeed.translation import translate
from zerokit.zero.engine import Engine


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
        self._set_status(ZeroParamStatus.AVAILABLE)
        if names and self._source is None:
            self._versions = [(parameter, parameter._version) for parameter in self._params]

    def _set_status(self, status: ZeroParamStatus) -> None:
        for parameter in filter(is_zero_param, self._params):
            parameter.ds_status = status

    def __exit__(self, *error: Any) -> None:
        changed = [parameter for parameter, version in self._versions if parameter._version != version]
        for block in self._blocks:
            block.__exit__(*error)
        self._set_status(ZeroParamStatus.NOT_AVAILABLE)
        if changed and error[0] is None:
            raise RuntimeError(
                f"{len(changed)} gathered parameters were changed, but no modifier_rank says whose changes count; they "
                "are dropped. Write GatheredParameters(params, modifier_rank=0)."
            )


ATTRIBUTES = ("ds_id", "ds_shape", "ds_numel", "ds_persist", "ds_status", "ds_tensor", "all_gather", "partition")


def describe(engine: Engine) -> None:
    """Give the parameters that an engine divides DeepSpeed's attributes. `ds_tensor`: what this rank holds (flat)."""
    if not engine.stage.parameter.divided:
        return
    numbers = count()
    for unit in engine.units:
        for index, parameter in enumerate(unit.parameters):
            parameter.ds_id, parameter.ds_shape = next(numbers), unit.shapes[index]
            parameter.ds_numel, parameter.ds_persist = unit.shapes[index].numel(), False
            parameter.ds_status = ZeroParamStatus.NOT_AVAILABLE
            parameter.ds_tensor = unit.weight.of(unit.layout, index)[1]
            alone = _Alone(parameter)
            parameter.all_gather, parameter.partition = alone.all_gather, alone.partition


def forget(engine: Engine) -> None:
    """Take the attributes off again."""
    for unit in engine.units:
        for parameter in unit.parameters:
            for name in ATTRIBUTES:
                parameter.__dict__.pop(name, None)


class _Alone:
    """One parameter that is made whole until it is to be divided again. All ranks call together."""

    def __init__(self, parameter: nn.Parameter):
        self._parameter, self._block = weakref.ref(parameter), None

    def all_gather(self, param_list: Iterable[nn.Parameter] | None = None, **_: Any) -> None:
        """Make this parameter whole, and those of `param_list`, to read."""
        for parameter in param_list or ():
            if parameter is not self._parameter():
                parameter.all_gather()
        if self._block is None:
            self._block = GatheredParameters(self._parameter())
            self._block.__enter__()

    def partition(self, param_list: Iterable[nn.Parameter] | None = None, has_been_updated: bool = False,
                  **_: Any) -> None:  # fmt: skip
        """Divide them again.

        Raises:
            ValueError: `has_been_updated`: changes are kept inside GatheredParameters(…, modifier_rank=0) alone.
        """
        if has_been_updated:
            raise ValueError("partition(has_been_updated=True): write inside GatheredParameters(…, modifier_rank=0).")
        for parameter in param_list or ():
            if parameter is not self._parameter():
                parameter.partition()
        if self._block is not None:
            block, self._block = self._block, None
            block.__exit__(None, None, None)


def register_external_parameter(module: nn.Module, parameter: nn.Parameter) -> None:
    """Not needed for parameters of modules that are no units of their own (zero.units, zero.min_unit)."""


def unregister_external_parameter(module: nn.Module, parameter: nn.Parameter) -> None:
    """The counterpart of `register_external_parameter`."""
