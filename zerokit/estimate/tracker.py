"""Follows what runs on the meta device: memory in a ledger, time on a clock."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from zerokit.estimate.clock import Clock, Lane
from zerokit.estimate.compiled import Backend
from zerokit.estimate.costs import flops_of, moved_by, moved_bytes, product_seconds, tensors_in
from zerokit.estimate.ledger import Ledger
from zerokit.estimate.op_cache import Known, OpCache
from zerokit.estimate.region import Region
from zerokit.record.hardware import Hardware

aten = torch.ops.aten
ANSWERS = {torch.bool: True, torch.float32: 1.0, torch.float64: 1.0}

_active: list[Tracker] = []
BACKEND = Backend(lambda: _active[-1])


class Tracker(TorchDispatchMode):
    """Sees every operation on a meta tensor. Values that Python asks for are answered with yes, 1.0 or 0.

    op_cache: what earlier trackers for the same hardware have found out.
    """

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Dynamo compiles under it."""
        return True

    def __init__(self, hardware: Hardware, op_cache: OpCache | None = None):
        super().__init__()
        self.hardware, self.ledger, self.clock = hardware, Ledger(), Clock()
        self._op_cache = op_cache or OpCache()
        self.host = Lane(self.clock, "host")  # copies of offloaded activations
        self._regions: dict[Region, list[tuple[str, float]]] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Follow what happens inside."""
        _active.append(self)
        try:
            with ExitStack() as stack:
                stack.enter_context(_attention())
                stack.enter_context(_resizes(self.ledger))
                if self.hardware.device == "cuda":
                    stack.enter_context(_static_compiler())
                stack.enter_context(self)
                yield
        finally:
            _active.pop()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function is aten._local_scalar_dense.default and args[0].is_meta and not isinstance(args[0], FakeTensor):
            return ANSWERS.get(args[0].dtype, 0)
        host = function is aten.empty.memory_format and kwargs.get("device") in (None, torch.device("cpu"))
        if host:  # copies of activations that offloading makes
            kwargs = kwargs | {"device": torch.device("meta"), "pin_memory": False}
        output, known = self._op_cache.call(function, args, kwargs)
        outputs = (
            [output] if type(output) is Tensor and output.is_meta else [t for t in tensors_in(output) if t.is_meta]
        )
        if any(isinstance(t, FakeTensor) for t in outputs):  # the compiler at work
            return output
        if host:
            self.ledger.hide(output)
            return output
        for tensor in outputs:
            self.ledger.see(tensor)
        if not getattr(function, "is_view", False):
            self._time(function, args, kwargs, output, known)
        return output

    def _time(self, function: Any, args: tuple, kwargs: dict, output: Any, known: Known | None) -> None:
        if function.overloadpacket in (aten.empty, aten.empty_strided, aten.detach, aten._unsafe_view, aten.alias):
            return
        if function is aten.copy_.default and any(self.ledger.is_hidden(tensor) for tensor in args[:2]):
            self._send(moved_bytes(args[0]))
            return
        if known is None or known.cost is None:
            flops = flops_of(function, args, kwargs, output)
            known = known or Known(None)
            known.cost = self._kernel(function, args, flops, output, moved_by(function, args, kwargs, output))
        self.clock.work(*known.cost)

    def _send(self, count: int) -> None:
        """Copy bytes to another rank, on a side stream, or to or from the host."""
        hardware, clock = self.hardware, self.clock
        if clock.current is not clock.compute:
            clock.transfer(hardware.peer.seconds(count), 2 * count / hardware.bandwidth)
            return
        self.host.wait(clock.compute.now)
        with self.host:
            clock.transfer(hardware.host.seconds(count), count / hardware.bandwidth)

    def _kernel(self, operation: Any, args: Any, flops: float, output: Any, moved: int) -> tuple[float, str]:
        hardware = self.hardware
        memory = moved / hardware.bandwidth
        product = product_seconds(operation, args, flops, output, hardware) if flops else 0.0
        return hardware.overhead + max(memory, product), "products" if product > memory else "memory"

    def time_region(self, region: Region) -> None:
        """Let the kernels of a compiled region take their time."""
        if region not in self._regions:
            self._regions[region] = [
                (kind, seconds)
                for operation, args, flops, output, moved in region.work()
                for seconds, kind in [self._kernel(operation, args, flops, output, moved)]
            ]
        for kind, seconds in self._regions[region]:
            self.clock.work(seconds, kind)


@contextmanager
def _resizes(ledger: Ledger) -> Iterator[None]:
    """Tell the ledger of storages that are resized, which no dispatch mode sees."""
    resize = torch.UntypedStorage.resize_

    def noted(storage: torch.UntypedStorage, count: int) -> torch.UntypedStorage:
        result = resize(storage, count)
        ledger.resized(storage)
        return result

    torch.UntypedStorage.resize_ = noted
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = resize


@contextmanager
def _attention() -> Iterator[None]:
    """The meta device has no fused attention: use the operation that saves what flash attention saves, where a GPU
    would take a fused kernel (not for fp32 with grouped queries, nor for masks that are learned, as T5's position bias:
    the one has none in PyTorch, the other none that is known here, which counts too much rather than too little)."""

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
        if query.dtype == torch.float32 and enable_gqa or attn_mask is not None and attn_mask.requires_grad:
            return aten._scaled_dot_product_attention_math(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )[0]
        return aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )[0]

    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library.impl("scaled_dot_product_attention", attention, "CompositeImplicitAutograd", allow_override=True)
        yield
    finally:
        library._destroy()


@contextmanager
def _static_compiler() -> Iterator[None]:
    """Compile every shape for itself, as often as asked."""
    import torch._dynamo

    logger = logging.getLogger("torch._higher_order_ops.wrap")
    level = logger.level
    logger.setLevel(logging.ERROR)  # its warning about selective checkpointing is for those who write policies
    try:
        with torch._dynamo.config.patch(
            automatic_dynamic_shapes=False,
            recompile_limit=1000,
            accumulated_recompile_limit=10_000,
            run_gc_after_compile=False,
        ):
            yield
    finally:
        logger.setLevel(level)
