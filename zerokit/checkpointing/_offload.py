"""Activations in pinned host memory: copied out behind the forward pass, fetched ahead of backward.

[Note: streams and memory]
Copies run on a stream of their own. Device memory is allocated and freed on the compute stream alone: what is copied
out is held until the compute stream has waited for the copy, one block later; what comes back is allocated before the
copy stream waits for the compute stream, and held until the compute stream has waited for it. So no tensor needs
`record_stream`.
Whole storages are copied, each once for a block: views that share one (queries, keys, values) share the copy and keep
their strides, as compiled graphs require. On a CPU the same path makes plain copies: nothing is saved, nothing changes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks as Hooks


class Lane:
    """The copy stream of one device; does nothing on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._arriving: tuple[torch.cuda.Event | None, list[Tensor]] = (None, [])

    def after_compute(self):
        """Context in which copies are issued, behind everything that the compute stream has been given so far."""
        if self.stream is None:
            return nullcontext()
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        return torch.cuda.stream(self.stream)

    def event(self) -> torch.cuda.Event | None:
        """Mark of what the copy stream has been given so far."""
        return None if self.stream is None else self.stream.record_event()

    def wait(self, event: torch.cuda.Event | None) -> None:
        """Lets the compute stream wait for `event`."""
        if event is not None:
            torch.cuda.current_stream(self.device).wait_event(event)

    def fetch(self, copies: list[HostCopy]) -> None:
        """Starts to bring storages back; `arrive` makes them usable."""
        self.arrive()
        for copy in copies:
            copy.device_bytes = torch.empty(copy.host.shape, dtype=torch.uint8, device=self.device)
        with self.after_compute():
            for copy in copies:
                copy.device_bytes.copy_(copy.host, non_blocking=True)
        self._arriving = (self.event(), [copy.device_bytes for copy in copies])

    def arrive(self) -> None:
        """Lets the compute stream wait for what `fetch` started last."""
        self.wait(self._arriving[0])
        self._arriving = (None, [])


class HostCopy:
    """One storage of the device, kept on the host."""

    def __init__(self, flat: Tensor, owner: BlockCopies) -> None:
        self.owner = owner
        self.views = 0
        self._restored = 0
        self.device_bytes: Tensor | None = None
        self.host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=flat.is_cuda)
        self.host.copy_(flat, non_blocking=True)

    def take(self) -> torch.UntypedStorage:
        """The fetched storage, for one of the views; forgotten here when all have it, so that backward can free it."""
        storage = self.device_bytes.untyped_storage()
        self._restored += 1
        if self._restored == self.views:
            self._restored, self.device_bytes = 0, None
        return storage


class BlockCopies:
    """What one call of one block's forward saved, and the call before it, whose backward comes next."""

    def __init__(self, lane: Lane, previous: BlockCopies | None) -> None:
        self.lane = lane
        self._previous = weakref.ref(previous) if previous else None
        self._copies: list[weakref.ref[HostCopy]] = []
        self._by_storage: dict[tuple[int, int], HostCopy] = {}
        self._sources: list[Tensor] = []

    @property
    def previous(self) -> BlockCopies | None:
        return self._previous() if self._previous else None

    def store(self, tensor: Tensor) -> HostCopy:
        """Starts the copy of the storage of `tensor`, unless it is under way."""
        storage = tensor.untyped_storage()
        key = (storage._cdata, tensor._version)
        if key not in self._by_storage:
            flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            with self.lane.after_compute():
                copy = HostCopy(flat, self)
            self._by_storage[key] = copy
            self._copies.append(weakref.ref(copy))
            self._sources.append(flat)  # also keeps the storage, whose identity is the key, alive
        return self._by_storage[key]

    def close(self) -> Callable[[], None]:
        """Ends the forward; the returned function frees the device memory once the copies are done."""
        done, sources = self.lane.event(), self._sources
        self._by_storage, self._sources = {}, []

        def release() -> None:
            self.lane.wait(done)
            sources.clear()

        return release

    def fetch(self) -> None:
        """Starts to bring all storages back."""
        copies = [copy for ref in self._copies if (copy := ref()) is not None and copy.device_bytes is None]
        self.lane.fetch(copies)


class SavedView:
    """A saved tensor: a view into a storage that lies on the host."""

    def __init__(self, tensor: Tensor, copy: HostCopy) -> None:
        self.copy = copy
        copy.views += 1
        self.dtype, self.size, self.stride = tensor.dtype, tensor.size(), tensor.stride()
        self.offset = tensor.storage_offset()

    def restore(self) -> Tensor:
        """The tensor again, from the bytes fetched to the device."""
        storage = self.copy.take()
        return torch.empty(0, dtype=self.dtype, device=storage.device).set_(
            storage, self.offset, self.size, self.stride
        )


class Offload:
    """Keeps large activations of all wrapped blocks on the host.

    Parameters, views of parameters, inputs that need no gradient (tables that blocks share) and tensors under
    `min_bytes` stay where they are.
    """

    def __init__(self, min_bytes: int) -> None:
        self.min_bytes = min_bytes
        self._lane: Lane | None = None
        self._release: Callable[[], None] = _nothing
        self._last: weakref.ref[BlockCopies] | None = None
        self._in_use: weakref.ref[BlockCopies] | None = None

    def wrap(self, forward: Callable, index: int) -> Callable:
        """`forward` of block `index`; what it saves for backward goes to the host."""
        module = getattr(forward, "__self__", None)
        parameters = module.parameters if isinstance(module, torch.nn.Module) else tuple

        # Hooks on saved tensors work around a compiled graph, not within it: `forward` is compiled on its own.
        @torch.compiler.disable(recursive=False)
        def offloaded(*args, **kwargs):
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            copies, hooks = self._open(inputs, parameters(), first=index == 0)
            with hooks:
                outputs = forward(*args, **kwargs)
            self._close(copies)
            return outputs

        return offloaded

    @torch.compiler.disable
    def _open(self, inputs: list[Tensor], parameters: Iterable[Tensor], first: bool) -> tuple[BlockCopies, Hooks]:
        device = inputs[0].device
        if self._lane is None or self._lane.device != device:
            self._lane = Lane(device)
        previous = None if first or self._last is None else self._last()
        copies = BlockCopies(self._lane, previous)
        self._last = weakref.ref(copies)
        staying = _storages([*parameters, *(value for value in inputs if not value.requires_grad)])
        return copies, Hooks(self._pack(copies, staying), self._unpack)

    @torch.compiler.disable
    def _close(self, copies: BlockCopies) -> None:
        self._release()
        self._release = copies.close()

    def _pack(self, copies: BlockCopies, staying: set[int]) -> Callable[[Tensor], Tensor | SavedView]:
        @torch.compiler.disable
        def pack(tensor: Tensor) -> Tensor | SavedView:
            stays = (
                tensor.nbytes < self.min_bytes
                or tensor.device != copies.lane.device
                or tensor.layout != torch.strided
                or tensor.untyped_storage()._cdata in staying
            )
            return tensor if stays else SavedView(tensor, copies.store(tensor))

        return pack

    def _unpack(self, saved: Tensor | SavedView) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        copies = saved.copy.owner
        if saved.copy.device_bytes is None:
            copies.fetch()
            copies.lane.arrive()
        if self._in_use is None or self._in_use() is not copies:
            self._enter(copies)
        return saved.restore()

    def _enter(self, copies: BlockCopies) -> None:
        """Backward reaches a block: wait for its activations and start on those of the next."""
        self._release()
        self._release = _nothing
        self._in_use = weakref.ref(copies)
        copies.lane.arrive()
        if copies.previous is not None:
            copies.previous.fetch()


def _storages(tensors: list[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def _nothing() -> None:
    return None


def build(options) -> Offload:
    """Keeps activations in pinned host memory."""
    return Offload(options.min_bytes)
