"""GPT and Llama: parts against plain references, published sizes, initialisation, causality, compilation."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from tests.infos import token_info
from zerokit.config.errors import ConfigError
from zerokit.config.registry import Choice, build, options_type
from zerokit.model._layers import Rotary, RotaryScaling, rotate
from zerokit.model.gpt import GPTOptions
from zerokit.model.llama import LlamaOptions

CONF = Path(__file__).parents[2] / "conf" / "model"
DATA = token_info(32, 61)
SMALL_GPT = GPTOptions(dim=32, layers=2, heads=4)
SMALL_LLAMA = LlamaOptions(dim=32, layers=2, heads=4, kv_heads=2, hidden=48)
MODERN_GPT = GPTOptions(
    dim=32,
    layers=2,
    heads=2,
    positions="rotary",
    activation="relu2",
    norm="rmsnorm",
    bias=False,
    qk_norm=True,
    tied=False,
)
FAMILIES = {"gpt": SMALL_GPT, "llama": SMALL_LLAMA, "modern": MODERN_GPT}


def make(options, device="cpu", data=DATA):
    name = "llama" if isinstance(options, LlamaOptions) else "gpt"
    with torch.device(device):
        return build("model", Choice(name, options), data=data)


def published(name):
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    component = values.pop("name")
    return component, options_type("model", component)(**values)


def tokens(batch=2, length=32, seed=0):
    return torch.randint(61, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt_124m", 124_439_808),
        ("llama_1b", 1_235_814_400),
        ("llama_3b", 3_212_749_824),
        ("llama_8b", 8_030_261_248),
        ("llama_350m", 350_274_560),
    ],
)
def test_published_parameter_counts(name, parameters):
    component, options = published(name)
    with torch.device("meta"):
        model = build("model", Choice(component, options), data=replace(DATA, seq_len=1024))
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES)
def test_reset_parameters_sets_everything(options):
    model = make(options, "meta")
    for module in model.modules():
        if any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            module.to_empty(device="cpu", recurse=False)
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                torch.nn.init.constant_(tensor, math.nan)
            module.reset_parameters()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert tensor.isfinite().all(), name


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES)
def test_meta_initialisation_equals_direct(options):
    torch.manual_seed(3)
    direct = make(replace(options, tied=False))
    late = make(replace(options, tied=False), "meta").to_empty(device="cpu")
    for module, twin in zip(direct.modules(), late.modules(), strict=True):
        if hasattr(module, "reset_parameters"):
            for each in (module, twin):
                torch.manual_seed(4)
                each.reset_parameters()
    for a, b in zip((*direct.parameters(), *direct.buffers()), (*late.parameters(), *late.buffers()), strict=True):
        assert torch.equal(a, b)


def test_residual_layers_start_smaller():
    model = make(GPTOptions(dim=128, layers=8, heads=2))
    block = model.blocks[0]
    assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.attention.out.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert block.feed_forward.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES)
def test_loss_is_cross_entropy_of_logits(options):
    model = make(options)
    x, y = tokens(seed=1), tokens(seed=2)
    logits = model(x)
    assert logits.shape == (2, 32, 61)
    torch.testing.assert_close(model(x, y), F.cross_entropy(logits.flatten(0, 1), y.flatten()))
    assert model(x, y).item() == pytest.approx(math.log(61), rel=0.05)


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES)
def test_later_tokens_change_nothing_before_them(options):
    model = make(options)
    x = tokens()
    y = x.clone()
    y[:, 20:] = 0
    assert torch.equal(model(x)[:, :20], model(y)[:, :20])
    assert not torch.equal(model(x)[:, 20:], model(y)[:, 20:])


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES)
def test_position_matters(options):
    # Attention without positions sees a set: swapping two earlier tokens would change nothing in the last row.
    model = make(replace(options, layers=1, init_std=0.3))
    x = tokens(batch=1)
    y = x.clone()
    y[0, 3], y[0, 9] = x[0, 9], x[0, 3]
    assert x[0, 3] != x[0, 9]
    assert (model(x)[0, -1] - model(y)[0, -1]).abs().max() > 1e-4


def test_rotary_is_a_complex_rotation():
    rotary = Rotary(head_dim=8, context=16, theta=100.0, scaling=None)
    x = torch.randn(2, 16, 3, 8, generator=torch.Generator().manual_seed(0))
    pairs = torch.complex(x[..., :4].double(), x[..., 4:].double())
    angles = torch.arange(16)[:, None].double() * 100.0 ** -(torch.arange(4).double() / 4)
    turned = pairs * torch.polar(torch.ones(()).double(), angles)[:, None]
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    torch.testing.assert_close(rotate(x, rotary(16)).double(), expected, rtol=1e-5, atol=1e-5)


def test_rotary_keeps_the_dtype_and_its_table_fp32():
    model = make(SMALL_LLAMA)
    assert model.positions.table.dtype == torch.float32
    assert "positions.table" not in model.state_dict()
    assert rotate(torch.ones(1, 4, 1, 8, dtype=torch.bfloat16), model.positions(4)).dtype == torch.bfloat16


def test_llama3_scaling_as_published():
    frequencies = 500000.0 ** -(torch.arange(0, 128, 2).double() / 128)
    scaled = RotaryScaling(8.0, 1.0, 4.0, 8192)(frequencies)
    for frequency, got in zip(frequencies.tolist(), scaled.tolist(), strict=True):
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4:
            expected = frequency
        elif wavelength > 8192 / 1:
            expected = frequency / 8
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            expected = (1 - smooth) * frequency / 8 + smooth * frequency
        assert got == pytest.approx(expected, rel=1e-9)


def test_grouped_queries_against_a_loop_over_heads():
    model = make(SMALL_LLAMA).double()
    attention, rotation = model.blocks[0].attention, model.positions(32)
    x = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    rows = attention.qkv.weight.split(8)  # heads of width 8: 4 of queries, 2 of keys, 2 of values
    mask = torch.full((32, 32), -math.inf).double().triu(1)
    mixed = []
    for head in range(4):
        q, k, v = (x @ rows[i].T for i in (head, 4 + head // 2, 6 + head // 2))
        q, k = (rotate(part[:, :, None], rotation)[:, :, 0] for part in (q, k))
        mixed.append((q @ k.mT / 8**0.5 + mask).softmax(-1) @ v)
    expected = torch.cat(mixed, dim=-1) @ attention.out.weight.T
    # The rotation is computed in fp32.
    torch.testing.assert_close(attention(x, rotation), expected, rtol=1e-5, atol=1e-9)


def test_dropout_acts_in_training_only():
    model = make(replace(SMALL_GPT, dropout=0.5))
    x = tokens()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_dropout_does_nothing_at_zero():
    model = make(SMALL_GPT)
    assert torch.equal(model(tokens()), model.eval()(tokens()))


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES)
def test_blocks_compile_without_graph_breaks(options):
    model = make(options)
    x, y = tokens(), tokens(seed=1)
    plain = model(x, y)
    for block in model.blocks:
        block.forward = torch.compile(block.forward, fullgraph=True, backend="aot_eager")
    compiled = model(x, y)
    compiled.backward()
    torch.testing.assert_close(compiled, plain)


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES)
def test_bf16_weights_work_without_autocast(options):
    model = make(options)
    x, y = tokens(), tokens(seed=1)
    expected = model(x, y)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    loss = model(x, y)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)


def test_units_are_blocks_and_large_untied_ends():
    small = make(SMALL_LLAMA)
    assert small.units() == list(small.blocks)
    large = make(replace(SMALL_LLAMA, dim=64, vocab_size=2**16), "meta")
    assert large.units() == [*large.blocks, large.embedding, large.head]
    tied = make(replace(SMALL_LLAMA, dim=64, vocab_size=2**16, tied=True), "meta")
    assert tied.units() == list(tied.blocks) and tied.head.weight is tied.embedding.weight


def test_flops_per_token():
    model = make(replace(SMALL_LLAMA, tied=False))
    multiplied = sum(p.numel() for p in model.parameters()) - model.embedding.weight.numel()
    assert model.flops_per_token(32) == 6 * multiplied + 12 * 2 * 32 * 32


@pytest.mark.parametrize(
    ("make_options", "message"),
    [
        (lambda: GPTOptions(dim=30, heads=4), "heads: expected a divisor of dim=30; got 4"),
        (lambda: LlamaOptions(heads=32, kv_heads=5), "kv_heads: expected a divisor of heads=32; got 5"),
        (lambda: GPTOptions(layers=0), "layers: expected at least 1; got 0"),
        (lambda: GPTOptions(dropout=1.0), "dropout: expected"),
    ],
)
def test_impossible_options_are_refused(make_options, message):
    with pytest.raises(ValueError, match=message):
        make_options()


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        (replace(SMALL_GPT, vocab_size=60), DATA, "model.vocab_size: the data have 61"),
        (replace(SMALL_GPT, context=16), DATA, "model.context: data.seq_len is 32; got 16"),
        (SMALL_GPT, replace(DATA, task="regression"), "needs tokens"),
    ],
)
def test_data_that_do_not_fit_are_refused(options, data, message):
    with pytest.raises(ConfigError, match=message):
        make(options, data=data)


def test_too_long_input_is_refused():
    with pytest.raises(ValueError, match="context is 32 tokens, got 33"):
        make(SMALL_LLAMA)(tokens(length=33))


# -- mappings --------------------------------------------------------------------------------------------------------

DOCUMENTS = (9, 1, 14, 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_packed_into_one_row_are_as_each_alone(family):
    model = make(FAMILIES[family]).eval()
    row = tokens(1, sum(DOCUMENTS))
    places = torch.cat([torch.arange(length) for length in DOCUMENTS])[None]
    packed = model(row, position_ids=places)
    alone = torch.cat([model(document) for document in row.split(DOCUMENTS, dim=1)], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-6)
    assert (model(row) - packed).abs().max() > 1e-3  # which they are not without places


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_of_what_it_stands_beside(family, side):
    model, row = make(FAMILIES[family]).eval(), tokens(1, 20)
    padding = torch.zeros(1, 5, dtype=torch.long)
    order = (padding, row) if side == "left" else (row, padding)
    padded = torch.cat(order, dim=1)
    mask = torch.cat([torch.full_like(part, part is row) for part in order], dim=1)
    places = (mask.cumsum(1) - 1).clamp(min=0) if side == "left" else None
    logits = model(padded, attention_mask=mask, position_ids=places)
    torch.testing.assert_close(logits[mask.bool()], model(row)[0], rtol=1e-4, atol=1e-6)
    assert logits.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_predicted_from_the_tokens_before_them(family):
    model, row = make(FAMILIES[family]).eval(), tokens(2, 20)
    labels = row.masked_fill(torch.rand(row.shape, generator=torch.Generator().manual_seed(1)) < 0.3, -100)
    wanted = F.cross_entropy(model(row)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(model(row, labels=labels), wanted)
