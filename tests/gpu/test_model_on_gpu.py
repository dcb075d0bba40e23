"""On a GPU: offloaded activations, the chunked loss and compiled blocks give what the plain model gives."""

import pytest
import torch
import torch.nn.functional as F

from tests.gpu.process import forked, needs_gpu
from tests.infos import token_info
from zerokit.config.registry import Choice, build, options_type
from zerokit.model import _linear_cross_entropy
from zerokit.model._linear_cross_entropy import linear_cross_entropy

pytestmark = needs_gpu

DATA = token_info(512, 1000)


def gradients(checkpointing, compiled=False, **options):
    """Loss and gradients of two batches of a small Llama in bf16, and the peak of memory in bytes."""
    torch.manual_seed(0)
    options = {"dim": 256, "layers": 8, "heads": 8, "kv_heads": 2, "hidden": 512} | options
    with torch.device("cuda"):
        model = build("model", Choice("llama", options_type("model", "llama")(**options)), data=DATA)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    component = build("checkpointing", Choice(checkpointing, options_type("checkpointing", checkpointing)()))
    for index, block in enumerate(model.blocks):
        block.forward = component.wrap(block.forward, index)
        if compiled:
            block.forward = torch.compile(block.forward)
    torch.cuda.reset_peak_memory_stats()
    inputs, targets = torch.randint(1000, (2, 16, 512), device="cuda")
    for _ in range(2):
        loss = model(inputs, targets)
        loss.backward()
    return [loss, *(p.grad for p in model.parameters())], torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["full", "selective", "cpu"])
@forked
def test_checkpointing_changes_memory_and_not_the_result(name, compiled):
    plain, most = gradients("none", compiled)
    got, peak = gradients(name, compiled)
    for a, b in zip(got, plain, strict=True):
        # The attention's backward adds in any order; compiled graphs are cut elsewhere and round elsewhere.
        tolerance = 0.05 if compiled else 0.01
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())
    assert peak < most


# One chunk and several; rows of less than one block of the kernel, and of more with a rest.
@pytest.mark.parametrize("vocabulary", [5000, 40_007])
@pytest.mark.parametrize("chunk", [1024, 4096])
@pytest.mark.parametrize("masked", [0, 7, 1500])  # of every 2,000 targets
@forked
def test_linear_cross_entropy(chunk, masked, vocabulary):
    generator = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(3000, 256, device="cuda", generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, 256, device="cuda", generator=generator).mul_(0.1).requires_grad_()
    targets = torch.randint(vocabulary, (3000,), device="cuda", generator=generator)
    targets.masked_fill_(torch.arange(3000, device="cuda") % 2000 < masked, -100)
    loss = linear_cross_entropy(hidden, weight, targets, chunk)
    got = torch.autograd.grad(loss, (hidden, weight))
    expected = F.cross_entropy(F.linear(hidden, weight), targets)
    torch.testing.assert_close(loss, expected)
    for a, b in zip(got, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk", [1024, 4096])
@forked
def test_linear_cross_entropy_in_bf16(chunk):
    """As exact as the plain one of the same bf16 logits: both are compared with fp32."""
    generator = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(3000, 256, device="cuda", generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(20_007, 256, device="cuda", generator=generator).mul_(0.1).bfloat16().requires_grad_()
    targets = torch.randint(20_007, (3000,), device="cuda", generator=generator)
    exact = [tensor.detach().float().requires_grad_() for tensor in (hidden, weight)]
    expected = F.cross_entropy(F.linear(*exact), targets)
    plain = F.cross_entropy(F.linear(hidden, weight).float(), targets)
    loss = linear_cross_entropy(hidden, weight, targets, chunk)
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    wanted = torch.autograd.grad(expected, exact)
    ours, theirs = (torch.autograd.grad(value, (hidden, weight)) for value in (loss, plain))
    for a, b, c in zip(ours, theirs, wanted, strict=True):
        error, bound = (a - c).norm() / c.norm(), (b - c).norm() / c.norm()
        assert error < 1.1 * bound + 0.002, (error, bound)


@forked
def test_the_loss_without_triton_is_the_same(monkeypatch, caplog):
    hidden = torch.randn(512, 64, device="cuda", requires_grad=True)
    weight = torch.randn(1000, 64, device="cuda", requires_grad=True)
    targets = torch.randint(1000, (512,), device="cuda")
    targets[:5] = -100
    with_kernel = linear_cross_entropy(hidden, weight, targets)
    gradients = torch.autograd.grad(with_kernel, (hidden, weight))
    _linear_cross_entropy._kernel.cache_clear()
    monkeypatch.setattr(_linear_cross_entropy, "has_triton", lambda: False)
    without = linear_cross_entropy(hidden, weight, targets)
    assert "torch's operations" in caplog.text
    torch.testing.assert_close(without, with_kernel)
    torch.testing.assert_close(torch.autograd.grad(without, (hidden, weight)), gradients)


@forked
def test_a_target_outside_the_vocabulary_is_an_error():
    hidden, weight = torch.randn(8, 16, device="cuda"), torch.randn(100, 16, device="cuda")
    with pytest.raises(RuntimeError, match="CUDA error"):
        linear_cross_entropy(hidden, weight, torch.full((8,), 100, device="cuda"))
        torch.cuda.synchronize()


@forked
def test_the_loss_does_not_wait_for_the_gpu():
    hidden = torch.randn(512, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(100, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(512, dtype=torch.int64, device="cuda")
    targets[:5] = -100
    linear_cross_entropy(hidden, weight, targets, 128).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        linear_cross_entropy(hidden, weight, targets, 128).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
