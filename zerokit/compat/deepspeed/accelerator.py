"""`deepspeed.accelerator`: the device of this process under DeepSpeed's names."""

from __future__ import annotations

from typing import Any

import torch

from zerokit.compat.deepspeed import comm


class Accelerator:
    """A GPU if PyTorch sees one, else the CPU. What is not here is torch.cuda's, or torch.cpu's."""

    @property
    def _name(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def _module(self) -> Any:
        return getattr(torch, self._name)

    def device_name(self, device_index: int | None = None) -> str:
        """`cuda`, `cuda:1` or `cpu`."""
        return self._name if device_index is None or self._name == "cpu" else f"{self._name}:{device_index}"

    def current_device_name(self) -> str:
        """This process's device by name."""
        return self.device_name(comm.get_local_rank())

    def is_available(self) -> bool:
        """Whether there is a device: always."""
        return True

    def communication_backend_name(self) -> str:
        """`nccl` or `gloo`."""
        return "nccl" if self._name == "cuda" else "gloo"

    def is_bf16_supported(self) -> bool:
        """Whether the device computes in bf16."""
        return self._name == "cpu" or torch.cuda.is_bf16_supported()

    def is_fp16_supported(self) -> bool:
        """Whether the device computes in fp16: yes."""
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


_accelerator = Accelerator()


def get_accelerator() -> Accelerator:
    """The one accelerator."""
    return _accelerator
