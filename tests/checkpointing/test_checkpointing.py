"""Activation checkpointing changes what is kept and nothing else: not one bit in fp32 on the CPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.infos import token_info
from zerokit.config.registry import Choice, build, names, options_type

DATA = token_info(16, 61)
VARIANTS = {
    "none": {},
    "full": {},
    "every_k": {"k": 2},
    "every_k_selective": {"k": 2, "others": "selective"},
    "selective": {},
    "cpu": {"min_bytes": 0},
}


def component(name):
    group = name.removesuffix("_selective")
    return build("checkpointing", Choice(group, options_type("checkpointing", group)(**VARIANTS[name])))


def model(name, compiled=False, **options):
    torch.manual_seed(0)
    options = {"dim": 32, "layers": 3, "heads": 4, **options}
    family = "llama" if "kv_heads" in options else "gpt"
    built = build("model", Choice(family, options_type("model", family)(**options)), data=DATA)
    checkpointing = component(name)
    for index, block in enumerate(built.blocks):
        block.forward = checkpointing.wrap(block.forward, index)
        if compiled:
            block.forward = torch.compile(block.forward, backend="aot_eager")
    return built


def step(built, seed=1):
    """Loss and gradients of one batch."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randint(61, (2, 4, 16), generator=generator)
    built.zero_grad()
    torch.manual_seed(7)
    loss = built(inputs, targets)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in built.parameters())]


def assert_same(got, wanted):
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


class Calls(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.count = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.count[name] = self.count.get(name, 0) + 1
        return function(*args, **(kwargs or {}))

    def of(self, *parts):
        return sum(count for name, count in self.count.items() if name.startswith(parts))


def calls(name):
    with Calls() as counted:
        step(model(name))
    return counted


def test_every_variant_is_tested():
    assert names("checkpointing") == sorted(set(VARIANTS) - {"every_k_selective"})


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}, {"kv_heads": 2, "hidden": 48}], ids=["gpt", "drop", "llama"])
@pytest.mark.parametrize("name", VARIANTS)
def test_not_a_bit_changes(name, options):
    checkpointed, plain = model(name, **options), model("none", **options)
    for seed in (1, 2):
        assert_same(step(checkpointed, seed), step(plain, seed))


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}], ids=["gpt", "dropout"])
@pytest.mark.parametrize("name", VARIANTS)
def test_compiled_around_the_checkpoint(name, options):
    # The same backend on both sides: it draws dropout masks in its own order.
    torch._dynamo.reset()
    checkpointed = step(model(name, compiled=True, **options))
    assert_same(checkpointed, step(model("none", compiled=True, **options)))


@pytest.mark.parametrize("name", ["full", "every_k", "every_k_selective", "selective"])
def test_recomputation_compiles_without_graph_breaks(name):
    torch._dynamo.reset()
    built = model(name)
    for block in built.blocks:
        block.forward = torch.compile(block.forward, backend="aot_eager", fullgraph=True)
    step(built)


def test_what_is_recomputed():
    none, full, half, selective, mixed = (
        calls(name) for name in ("none", "full", "every_k", "selective", "every_k_selective")
    )
    attention = "_scaled_dot_product_flash_attention_for_cpu"
    forward = none.count[attention]
    assert full.count[attention] == 2 * forward
    assert half.count[attention] == forward + 2  # blocks 0 and 2 of 3
    assert selective.count[attention] == forward
    assert selective.of("mm", "addmm", "bmm") == none.of("mm", "addmm", "bmm") < full.of("mm", "addmm", "bmm")
    assert selective.of("native_layer_norm") > none.of("native_layer_norm")
    assert mixed.count[attention] == half.count[attention]
    assert mixed.of("native_layer_norm") > half.of("native_layer_norm")


def test_evaluation_recomputes_nothing():
    with torch.no_grad(), Calls() as counted:
        model("full")(torch.zeros(1, 16, dtype=torch.int64))
    assert counted.count["_scaled_dot_product_flash_attention_for_cpu"] == 3


def test_cpu_leaves_parameters_where_they_are(monkeypatch):
    built = model("cpu")
    moved = []
    original = torch.Tensor.copy_

    def note(self, source, *args, **kwargs):
        moved.append(source.untyped_storage().data_ptr())
        return original(self, source, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "copy_", note)
    step(built)
    assert len(moved) > 3 * 5
    assert not set(moved) & {p.untyped_storage().data_ptr() for p in built.parameters()}


def test_cpu_allows_a_second_backward():
    def gradients(name):
        block = model(name).blocks[0]
        x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
        loss = block(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        return [x.grad, *(p.grad for p in block.parameters())]

    assert_same(gradients("cpu"), gradients("none"))


def test_cpu_allows_two_forwards_before_the_backwards():
    def gradients(name):
        built = model(name)
        inputs = torch.randint(61, (4, 16), generator=torch.Generator().manual_seed(0))
        losses = [built(inputs, inputs), built(inputs.flip(0), inputs)]
        for loss in losses:
            loss.backward()
        return [p.grad for p in built.parameters()]

    assert_same(gradients("cpu"), gradients("none"))


def test_k_must_be_positive():
    with pytest.raises(ValueError, match="k: expected at least 1; got 0"):
        options_type("checkpointing", "every_k")(k=0)
