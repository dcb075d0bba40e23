"""Operations that are worked out once: what is made again is what PyTorch returns, and nothing is kept alive."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zerokit.estimate.op_cache import OpCache
from zerokit.estimate.tracker import Tracker
from zerokit.record.hardware import ENTRIES

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def described(output) -> list[tuple]:
    outputs = output if isinstance(output, tuple | list) else [output]
    return [t if t is None else (t.shape, t.stride(), t.dtype, t.device.type, t.storage_offset()) for t in outputs]


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (aten.mul.Tensor, (meta(3, 4), meta(4)), {}),
        (aten.mul.Tensor, (meta(4, 3).t(), 2), {}),
        (aten.add.Tensor, (meta(3, dtype=torch.bfloat16), meta(3)), {"alpha": 2}),
        (aten.cat.default, ([meta(2, 3), meta(5, 3)],), {}),
        (aten.native_layer_norm.default, (meta(2, 8), [8], meta(8), None, 1e-5), {}),
        (aten._to_copy.default, (meta(2, 8),), {"dtype": torch.float16}),
        (aten.sum.dim_IntList, (meta(2, 8), [1]), {}),
    ],
)
def test_what_is_made_again_is_what_pytorch_returns(function, args, kwargs):
    op_cache, expected = OpCache(), function(*args, **kwargs)
    first, _ = op_cache.call(function, args, kwargs)
    again, known = op_cache.call(function, args, kwargs)
    assert known.recipe is not None
    assert described(first) == described(again) == described(expected)
    assert all(a is not b for a, b in zip(list(first), list(again), strict=True)), "new tensors every time"


def test_equal_numbers_of_other_types_are_other_operations():
    op_cache, x = OpCache(), meta(3, dtype=torch.int64)
    outputs = [op_cache.call(aten.mul.Tensor, (x, factor), {})[0].dtype for factor in (2, 2.0, 2, True, 1, 1.0)]
    assert outputs == [torch.int64, torch.float32, torch.int64, torch.int64, torch.int64, torch.float32]


def test_changes_in_place_return_their_argument():
    op_cache = OpCache()
    for x in (meta(3), meta(3)):
        output, known = op_cache.call(aten.add_.Tensor, (x, 1.0), {})
        assert output is x and known.recipe is not None


def test_what_is_written_into_is_returned_but_shapes_are_set_every_time():
    op_cache, x, norm = OpCache(), meta(3), aten.linalg_vector_norm.out
    for target in (meta(), meta()):
        output, known = op_cache.call(norm, (x,), {"out": target})
        assert output is target and known.recipe is not None
    for target in (meta(0), meta(0)):  # PyTorch gives it the shape of the result
        output, known = op_cache.call(aten.mul.out, (x, x), {"out": target})
        assert output is target and target.shape == (3,) and known.recipe is None


def test_what_shares_memory_with_an_argument_is_always_asked_for():
    op_cache, x = OpCache(), meta(2, 6)
    for function, args in ((aten.view.default, (x, [12])), (aten._unsafe_view.default, (x, [3, 4]))):
        for _ in range(2):
            output, _ = op_cache.call(function, args, {})
            assert output.untyped_storage()._cdata == x.untyped_storage()._cdata
    target = meta(0)
    for source in (meta(5), meta(5)):
        op_cache.call(aten.set_.source_Tensor, (target, source), {})
        assert target.untyped_storage()._cdata == source.untyped_storage()._cdata


def test_nothing_is_kept_alive():
    op_cache, x = OpCache(), meta(100)
    storage = x.untyped_storage()
    op_cache.call(aten.mul.Tensor, (x, 2), {})
    op_cache.call(aten.set_.source_Storage_storage_offset, (meta(0), storage, 0, [100], [1]), {})
    end = weakref.ref(storage)
    del x, storage
    gc.collect()
    assert end() is None


class Counter(TorchDispatchMode):
    """Notes what reaches PyTorch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


def test_equal_blocks_are_worked_out_once_and_cost_the_same():
    layers = nn.ModuleList(nn.Linear(16, 16, device="meta") for _ in range(3))
    tracker, counter = Tracker(ENTRIES["cpu"]), Counter()
    x, seconds, worked_out = meta(4, 16), [], []
    with counter, tracker.active():
        for layer in layers:
            before, counter.seen = tracker.clock.compute.now, []
            x = F.gelu(layer(x))
            seconds.append(tracker.clock.compute.now - before)
            asked = [f for f in counter.seen if not f.is_view and f is not aten.empty_strided.default]
            worked_out.append(len(asked))
    assert worked_out == [2, 0, 0]
    assert seconds == pytest.approx([seconds[0]] * 3) and seconds[0] > 0
