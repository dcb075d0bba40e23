"""The chunked loss is the plain one: value and gradients, in every dtype, with and without gradients."""

import pytest
import torch
import torch.nn.functional as F

from zerokit.model._linear_cross_entropy import linear_cross_entropy

TOKENS, DIM, VOCAB = 37, 16, 50


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, DIM, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, DIM, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(VOCAB, (TOKENS,), generator=generator)


def reference(hidden, weight, targets, scale=1.0):
    """Loss and gradients of the whole logits, in fp64."""
    hidden, weight = (t.detach().double().requires_grad_() for t in (hidden, weight))
    loss = F.cross_entropy(F.linear(hidden, weight), targets)
    (loss * scale).backward()
    return loss, hidden.grad, weight.grad


def checked_in_fp32(hidden, weight, targets, chunk):
    """The loss, after it and its gradients were compared with the reference."""
    loss = linear_cross_entropy(hidden, weight, targets, chunk)
    (3.0 * loss).backward()
    expected, hidden_grad, weight_grad = reference(hidden, weight, targets, scale=3.0)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(hidden.grad.double(), hidden_grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weight.grad.double(), weight_grad, rtol=1e-5, atol=1e-7)
    return loss


@pytest.mark.parametrize("chunk", [1, 10, 37, 4096])
def test_equals_cross_entropy_in_fp32(chunk):
    hidden, weight, targets = inputs()
    checked_in_fp32(hidden, weight, targets, chunk)


# bf16 has 8 bits of mantissa: each value within 2 % of the largest one.
@pytest.mark.parametrize("chunk", [10, 4096])
def test_is_close_in_bf16(chunk):
    hidden, weight, targets = inputs(torch.bfloat16)
    loss = linear_cross_entropy(hidden, weight, targets, chunk)
    loss.backward()
    expected, *gradients = reference(hidden, weight, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-2, atol=0)
    for got, wanted in zip((hidden.grad, weight.grad), gradients, strict=True):
        assert got.dtype == torch.bfloat16
        assert (got - wanted).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.parametrize("chunk", [1000, 20_000])
def test_fp16_gradients_do_not_underflow(chunk):
    hidden, weight, targets = inputs(torch.float16)
    # Many tokens: (softmax - one-hot) / tokens is below fp16's smallest number unless the scale comes first.
    hidden = hidden.detach().repeat(400, 1).mul(0.1).requires_grad_()
    targets = targets.repeat(400)
    scale = 2.0**16
    (linear_cross_entropy(hidden, weight, targets, chunk) * scale).backward()
    _, hidden_grad, weight_grad = reference(hidden, weight, targets, scale)
    assert (hidden.grad - hidden_grad).abs().max() < 0.01 * hidden_grad.abs().max()
    assert (weight.grad - weight_grad).abs().max() < 0.01 * weight_grad.abs().max()


def test_without_gradients_gives_the_same_value():
    hidden, weight, targets = inputs()
    with_gradients = linear_cross_entropy(hidden, weight, targets, 10)
    with torch.no_grad():
        assert torch.equal(linear_cross_entropy(hidden, weight, targets, 10), with_gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_frozen_weight_gets_no_gradient(dtype):
    hidden, weight, targets = inputs(dtype)
    linear_cross_entropy(hidden, weight.detach(), targets, 10).backward()
    assert hidden.grad is not None and weight.grad is None


def masked(targets, kind):
    """Targets of which some count for nothing: in places, whole chunks of 10, or all of them."""
    places = torch.arange(len(targets))
    left_out = {"places": places % 3 == 0, "chunks": places < 20, "all but one": places > 0, "all": places >= 0}[kind]
    return targets.masked_fill(left_out, -100)


@pytest.mark.parametrize("kind", ["places", "chunks", "all but one"])
@pytest.mark.parametrize("chunk", [10, 4096])
def test_masked_targets_are_left_out(chunk, kind):
    hidden, weight, targets = inputs()
    targets = masked(targets, kind)
    loss = checked_in_fp32(hidden, weight, targets, chunk)
    with torch.no_grad():
        assert torch.equal(linear_cross_entropy(hidden, weight, targets, chunk), loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chunk", [10, 4096])
def test_masked_targets_are_left_out_in_half_formats(chunk, dtype):
    hidden, weight, targets = inputs(dtype)
    targets = masked(targets, "places")
    linear_cross_entropy(hidden, weight, targets, chunk).backward()
    _, *gradients = reference(hidden, weight, targets)
    for got, wanted in zip((hidden.grad, weight.grad), gradients, strict=True):
        assert (got - wanted).abs().max() < 0.02 * wanted.abs().max()
    assert not hidden.grad[::3].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chunk", [10, 4096])
def test_without_a_target_loss_and_gradients_are_zero(chunk, dtype):
    hidden, weight, targets = inputs(dtype)
    loss = linear_cross_entropy(hidden, weight, masked(targets, "all"), chunk)
    loss.backward()
    assert loss.item() == 0 and not hidden.grad.any() and not weight.grad.any()


def test_other_negative_targets_are_refused():
    hidden, weight, targets = inputs()
    with pytest.raises(RuntimeError, match="out of bounds"):
        linear_cross_entropy(hidden, weight, targets.index_fill(0, torch.tensor([5]), -1), 10)


def test_second_backward_is_refused():
    hidden, weight, targets = inputs()
    loss = linear_cross_entropy(hidden, weight, targets, 10)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


def test_logits_of_all_tokens_never_exist():
    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.size = max(self.size, tensor.numel())
            return out

    hidden, weight, targets = inputs()
    with Largest() as largest:
        linear_cross_entropy(hidden, weight, targets, 10).backward()
    assert largest.size <= max(10 * VOCAB, VOCAB * DIM)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_compiles_without_graph_breaks(dtype):
    hidden, weight, targets = inputs(dtype)
    plain = linear_cross_entropy(hidden, weight, targets, 10)
    plain.backward()
    gradient, hidden.grad = hidden.grad, None
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")(hidden, weight, targets, 10)
    compiled.backward()
    torch.testing.assert_close(compiled, plain)
    torch.testing.assert_close(hidden.grad, gradient)
