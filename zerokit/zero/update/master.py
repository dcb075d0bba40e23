"""Where the fp32 master weights live beside the compute weights: elementwise functions that compile into one kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Same:
    """Compute weights are fp32: they are the master weights."""

    extra: torch.dtype | None = None

    @staticmethod
    def load(weight: Tensor, extra: Tensor | None) -> Tensor:
        """The fp32 values."""
        return weight

    @staticmethod
    def store(weight: Tensor, extra: Tensor | None, value: Tensor) -> None:
        """Write the fp32 `value` (n,) as compute weights and whatever completes them."""
        weight.copy_(value)


class Separate:
    """A whole fp32 copy: 4 bytes per parameter beside the compute weights."""

    extra: torch.dtype | None = torch.float32

    @staticmethod
    def load(weight: Tensor, extra: Tensor) -> Tensor:
        """The fp32 values."""
        return extra

    @staticmethod
    def store(weight: Tensor, extra: Tensor, value: Tensor) -> None:
        """Write the fp32 `value` (n,) as compute weights and whatever completes them."""
        extra.copy_(value)
        weight.copy_(value)


class Split:
    """bf16 weight plus the 16 bits it lacks: the exact fp32 value in 2 bytes per parameter instead of 4.

    The weight is the fp32 value rounded to the nearest bf16 (ties away from zero, so that the remainder always fits
    16 signed bits), and `fp32 bits = (bf16 bits << 16) + remainder`.
    """

    extra: torch.dtype | None = torch.int16

    @staticmethod
    def load(weight: Tensor, extra: Tensor) -> Tensor:
        """The fp32 values."""
        return ((weight.view(torch.int16).to(torch.int32) << 16) + extra.to(torch.int32)).view(torch.float32)

    @staticmethod
    def store(weight: Tensor, extra: Tensor, value: Tensor) -> None:
        """Write the fp32 `value` (n,) as compute weights and whatever completes them."""
        bits = value.view(torch.int32)
        high = (bits + 0x8000) >> 16
        extra.copy_(bits - (high << 16))
        weight.view(torch.int16).copy_(high)


class Split24:
    """bf16 weight plus 8 of the 16 bits it lacks: fp32 values rounded to the nearest with 16 significant bits (ties
    away from zero), in 1 byte per parameter.

    A change of less than 2⁻¹⁷ of a value is lost; steps of AdamW are about the learning rate, of most weights far more
    than that. Exact where values come from here, so that a state is read as it was saved.
    """

    extra: torch.dtype | None = torch.int8

    @staticmethod
    def load(weight: Tensor, extra: Tensor) -> Tensor:
        """The fp32 values."""
        bits = (weight.view(torch.int16).to(torch.int32) << 8) + extra.to(torch.int32)
        return (bits << 8).view(torch.float32)

    @staticmethod
    def store(weight: Tensor, extra: Tensor, value: Tensor) -> None:
        """Write the fp32 `value` (n,) as compute weights and whatever completes them."""
        bits = (value.view(torch.int32) + 0x80) >> 8
        high = (bits + 0x80) >> 8
        extra.copy_(bits - (high << 8))
        weight.view(torch.int16).copy_(high)


class Across:
    """A way to store master weights whose `extra` may lie on the host: it passes through the device of the weights."""

    def __init__(self, master: Any):
        self._master, self.extra = master, master.extra

    def load(self, weight: Tensor, extra: Tensor | None) -> Tensor:
        """The fp32 values, where the weights are."""
        return self._master.load(weight, None if extra is None else extra.to(weight.device, non_blocking=True))

    def store(self, weight: Tensor, extra: Tensor | None, value: Tensor) -> None:
        """Write the fp32 `value` (n,) as compute weights and whatever completes them. The host waits for what it is to
        hold."""
        if extra is None or extra.device == weight.device:
            self._master.store(weight, extra, value)
            return
        here = torch.empty_like(extra, device=weight.device)
        self._master.store(weight, here, value)
        extra.copy_(here)


MASTERS = {"same": Same, "separate": Separate, "split": Split, "split24": Split24}
