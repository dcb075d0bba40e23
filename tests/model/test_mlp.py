"""The MLP from one linear layer upwards."""

from dataclasses import replace

import pytest
import torch

from zerokit.config.data_info import DataInfo
from zerokit.config.errors import ConfigError
from zerokit.config.registry import Choice, build
from zerokit.model.mlp import MLPOptions

DATA = DataInfo(
    task="regression",
    seq_len=None,
    vocab_size=None,
    in_features=10,
    out_features=1,
    sha256="",
    description="",
    bytes_per_token=None,
)


def make(options, data=DATA):
    return build("model", Choice("mlp", options), data=data)


def test_smallest_is_one_linear_layer():
    model = make(MLPOptions())
    assert [tuple(p.shape) for p in model.parameters()] == [(1, 10), (1,)]
    x = torch.randn(4, 10)
    assert torch.equal(model(x), torch.nn.functional.linear(x, *model.parameters()))
    assert model.flops_per_token() == 60


def test_hidden_layers():
    model = make(MLPOptions(hidden=[7, 5], bias=False))
    x = torch.randn(4, 10)
    first, second, last = model.parameters()
    assert torch.equal(model(x), ((x @ first.T).relu() @ second.T).relu() @ last.T)
    assert len(model.units()) == 3


def test_sizes_that_do_not_fit_the_data_are_refused():
    with pytest.raises(ConfigError, match="model.in_features: the data have 10; got 11"):
        make(MLPOptions(in_features=11))
    with pytest.raises(ConfigError, match="the data are tokens"):
        make(MLPOptions(), replace(DATA, task="tokens"))
    with pytest.raises(ValueError, match="hidden: expected widths of at least 1"):
        MLPOptions(hidden=[0])
