"""Data sources: the order depends on seed and index alone, splits do not overlap, errors name what is wrong."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from zerokit.config.registry import Choice, build, options_type


def make(name, seed=0, **options):
    return build("data", Choice(name, options_type("data", name)(**options)), seed=seed)


SYNTHETIC = [
    {"task": "tokens", "samples": 50, "held_out": 8, "seq_len": 12, "vocab_size": 20},
    {"task": "regression", "samples": 50, "held_out": 8, "in_features": 5, "out_features": 3},
    {"task": "classification", "samples": 50, "held_out": 8, "in_features": 5, "out_features": 4},
]
TASKS = [options["task"] for options in SYNTHETIC]


@pytest.mark.parametrize("options", SYNTHETIC, ids=TASKS)
def test_any_cut_of_the_order_gives_the_same_samples(options):
    whole = make("synthetic", **options).batch(30, 120)  # crosses the ends of epochs 0, 1 and 2
    source = make("synthetic", **options)
    for size in (1, 7, 40):
        parts = [source.batch(start, min(size, 150 - start)) for start in range(30, 150, size)]
        for wanted, got in zip(whole, zip(*parts, strict=True), strict=True):
            assert torch.equal(wanted, torch.cat(got))


def test_an_epoch_holds_every_sample_once_and_epochs_differ():
    source = make("synthetic", **SYNTHETIC[1])
    epochs = [source.batch(50 * epoch, 50)[0] for epoch in range(2)]
    assert not torch.equal(*epochs)
    assert torch.equal(*(epoch[epoch[:, 0].argsort()] for epoch in epochs))
    assert len(epochs[0][:, 0].unique()) == len(source) == 50


def test_stdlib_is_split_by_file_and_leaves_out_tests():
    source = make("stdlib", seq_len=64)
    held_out = 0
    while source.validation(held_out, 100) is not None:
        held_out += 100
    assert 2e6 < len(source) * 64 < 5e7
    assert 0.01 < held_out / len(source) < 0.15
    assert source.info.vocab_size == 256 and source.info.bytes_per_token == 1.0
    assert len(source.info.sha256) == 64
    assert make("stdlib", seq_len=32, seed=5).info.sha256 == source.info.sha256
    text = source.decode(source.batch(0, 500)[0].flatten().tolist())
    assert "import " in text and "unittest.TestCase)" not in text


def test_synthetic_data_can_be_learned():
    source = make("synthetic", task="regression", noise=0.0, in_features=5, out_features=3)
    inputs, targets = source.batch(0, 100)
    fitted = torch.linalg.lstsq(inputs, targets).solution
    held_out = source.validation(0, 50)
    assert source.loss(held_out[0] @ fitted, held_out[1]) < 1e-9
    tokens, following = make("synthetic", noise=0.0, vocab_size=20, seq_len=12).batch(0, 5)
    assert torch.equal((tokens + (following - tokens)[:, :1]) % 20, following)


def test_classes_and_their_loss():
    source = make("synthetic", **SYNTHETIC[2])
    inputs, targets = source.batch(0, 50)
    assert targets.dtype == torch.int64 and set(targets.tolist()) <= set(range(4))
    uniform = source.loss(torch.zeros(50, 4, dtype=torch.bfloat16), targets)
    assert uniform.dtype == torch.float32
    torch.testing.assert_close(uniform, torch.tensor(4.0).log())


def test_token_loss_is_the_mean_over_tokens():
    source = make("synthetic", **SYNTHETIC[0])
    targets = source.batch(0, 3)[1]
    torch.testing.assert_close(source.loss(torch.zeros(3, 12, 20), targets), torch.tensor(20.0).log())


@pytest.mark.parametrize("options", [SYNTHETIC[0], SYNTHETIC[2]], ids=["tokens", "classification"])
def test_masked_targets_are_left_out_of_the_loss(options):
    source = make("synthetic", **options)
    targets = source.batch(0, 6)[1]
    classes = 20 if options["task"] == "tokens" else 4
    outputs = torch.randn(*targets.shape, classes, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for left_out in (targets % 2 == 0, targets >= 0):
        kept = targets.masked_fill(left_out, -100)
        loss = source.loss(outputs, kept)
        (gradient,) = torch.autograd.grad(loss, outputs)
        if left_out.all():
            assert loss.item() == 0 and not gradient.any()
        else:
            wanted = F.cross_entropy(outputs[~left_out], targets[~left_out])
            torch.testing.assert_close(loss, wanted)
            torch.testing.assert_close(gradient, torch.autograd.grad(wanted, outputs)[0])


def test_digest_names_the_data():
    first = make("synthetic", **SYNTHETIC[1])
    assert make("synthetic", **SYNTHETIC[1]).info == first.info
    assert make("synthetic", seed=1, **SYNTHETIC[1]).info == replace(
        first.info, sha256=make("synthetic", seed=1, **SYNTHETIC[1]).info.sha256
    )
    assert make("synthetic", seed=1, **SYNTHETIC[1]).info.sha256 != first.info.sha256


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("synthetic", {"samples": 0}, "samples: expected at least 1; got 0"),
        ("synthetic", {"task": "classification"}, "out_features: classification needs at least 2 classes; got 1"),
        ("stdlib", {"seq_len": 0}, "seq_len: expected at least 1"),
        ("stdlib", {"held_out_percent": 80}, "held_out_percent: expected 1 to 50; got 80"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)
