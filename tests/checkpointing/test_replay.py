"""A recomputed block gets its arguments as they were, also those that it changes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from zerokit.config.registry import Choice, build, options_type

RECOMPUTING = ["full", "every_k", "selective"]


def wrapped(name, block, **options):
    component = build("checkpointing", Choice(name, options_type("checkpointing", name)(**options)))
    block.forward = component.wrap(block.forward, 0)
    return block


@dataclass
class Slots:
    """A cache by attributes, as a block's keys and values."""

    keys: dict = field(default_factory=dict)
    seen: int = 0

    def update(self, key):
        self.seen += 1
        past = self.keys.get(0)
        self.keys[0] = key if past is None else torch.cat([past, key], 0)
        return self.keys[0]


class Appends(nn.Linear):
    """Reads and appends to a list."""

    def forward(self, x, kept):
        kept.append(super().forward(x))
        return torch.cat(kept).sin()


class Caches(nn.Linear):
    """Reads and grows a cache."""

    def forward(self, x, *, cache):
        return (cache.update(super().forward(x)) * cache.seen).sin()


class Counts(nn.Linear):
    """Changes a tuple's mapping."""

    def forward(self, x, state):
        _name, counters = state
        counters["calls"] = counters.get("calls", 0) + 1
        return super().forward(x * counters["calls"])


def call_list(block, x, kept):
    return block(x, kept)


def call_cache(block, x, kept):
    return block(x, cache=kept)


def call_tuple(block, x, kept):
    return block(x, ("name", kept))


PROGRAMS = {
    "list": (Appends, list, call_list),
    "cache": (Caches, Slots, call_cache),
    "mapping in a tuple": (Counts, dict, call_tuple),
}


def gradients(program, name, backwards=1, calls=2):
    """Of the block and its input, after `calls` calls that share one changing argument; and that argument."""
    cls, make, call = PROGRAMS[program]
    torch.manual_seed(0)
    block, kept = cls(3, 3), make()
    block = wrapped(name, block) if name else block
    x = torch.randn(2, 3, requires_grad=True)
    loss = sum(call(block, x * (i + 1), kept).square().sum() for i in range(calls))
    for again in reversed(range(backwards)):
        loss.backward(retain_graph=again > 0)
    return [x.grad, block.weight.grad, block.bias.grad], kept


@pytest.mark.parametrize(("name", "backwards"), [*((name, 1) for name in RECOMPUTING), ("full", 2), ("every_k", 2)])
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_argument_that_changes(program, name, backwards):
    got, kept = gradients(program, name, backwards)
    wanted, plain = gradients(program, None, backwards)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    if isinstance(kept, Slots):
        assert kept.seen == plain.seen and torch.equal(kept.keys[0], plain.keys[0])
    else:
        assert len(kept) == len(plain), "the caller's own object is changed once a call"


class Scales(nn.Linear):
    """Changes a tensor in place that it was given by name, or inside of an object."""

    def forward(self, x, *, scale):
        scale = scale["tensor"] if isinstance(scale, dict) else scale
        return super().forward(x) * scale.add_(1)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("name", RECOMPUTING)
def test_a_tensor_changed_in_place_is_noticed(name, hidden):
    block, scale = wrapped(name, Scales(3, 3)), torch.ones(3)
    loss = block(torch.ones(2, 3), scale={"tensor": scale} if hidden else scale).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_cannot_be_copied_is_refused_in_words():
    with pytest.raises(TypeError, match=r"cannot be copied \(dict\).*checkpointing=none"):
        wrapped("full", Scales(3, 3))(torch.ones(2, 3), scale={"tensor": torch.ones(3), "lock": threading.Lock()})


def test_without_gradients_nothing_is_copied():
    scale = {"tensor": torch.ones(3), "lock": threading.Lock()}
    with torch.no_grad():
        wrapped("full", Scales(3, 3))(torch.ones(2, 3), scale=scale)
    assert scale["tensor"].tolist() == [2, 2, 2]


def test_a_compiled_block_with_a_cache():
    def compiled(name):
        torch._dynamo.reset()
        torch.manual_seed(0)
        block = Caches(3, 3)
        block = wrapped(name, block) if name else block
        block.forward = torch.compile(block.forward, backend="aot_eager")
        cache, x = Slots(), torch.randn(2, 3)
        sum(block(x, cache=cache).square().sum() for _ in range(2)).backward()
        return [block.weight.grad, block.bias.grad]

    assert all(torch.equal(a, b) for a, b in zip(compiled("full"), compiled(None), strict=True))
