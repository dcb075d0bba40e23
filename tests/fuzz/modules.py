"""Bodies of blocks: small modules from (BATCH, TIME, DIM) to the same shape, one for each name in `program.BODIES`."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

BATCH, TIME, DIM = 3, 4, 8
LENGTHS = torch.tensor([4, 3, 1])


def linear() -> nn.Linear:
    return nn.Linear(DIM, DIM)


class View(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.reshape(-1, DIM)).view_as(x)


class Transposed(View):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.transpose(0, 1)).transpose(0, 1)


class Mutating(View):
    def forward(self, x: Tensor) -> Tensor:
        return x.add_(self.linear(x.clone()))


class DetachedPath(View):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.detach()) + 0.5 * x


class SharedInside(View):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.tanh(self.linear(x)))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(DIM, 2 * DIM), nn.Linear(2 * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleList([linear(), nn.ModuleDict({"ff": linear()})])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner[1]["ff"](torch.tanh(self.inner[0](x)))


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(DIM, DIM, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=False)[0]


class LSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(DIM, DIM, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class PackedLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(DIM, DIM, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        packed = pack(x)
        for layer in self.layers:
            packed, _ = layer(packed)
        return x + unpack(packed)


def pack(x: Tensor) -> nn.utils.rnn.PackedSequence:
    return pack_padded_sequence(x, LENGTHS, batch_first=True)


def unpack(packed: nn.utils.rnn.PackedSequence) -> Tensor:
    return pad_packed_sequence(packed, batch_first=True, total_length=TIME)[0]


class BatchNorm(View):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x).transpose(1, 2)).transpose(1, 2).to(x.dtype)


class Positions(View):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(TIME, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + 0.3 * self.table(torch.arange(TIME)))


class RunningMean(View):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(DIM))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * x.mean((0, 1)))
        return self.linear(x - self.mean.to(x.dtype))


class SavedByFunction(View):
    function: type[torch.autograd.Function]

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x, self.linear.weight) + self.linear.bias


class _Saves(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.flatten(0, -2).T @ x.flatten(0, -2)


class Keeps(torch.autograd.Function):
    """Keeps its weight beside what autograd saves."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight = weight
        return x @ weight.T

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (x,) = ctx.saved_tensors
        return gradient @ ctx.weight, gradient.flatten(0, -2).T @ x.flatten(0, -2)


class KeptByFunction(SavedByFunction):
    function = Keeps


SavedByFunction.function = _Saves


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.bilinear = nn.Bilinear(DIM, DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        bounded = torch.tanh(x)
        return x + 0.3 * self.bilinear(bounded, bounded)


class GatedOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.both = nn.Linear(DIM, 2 * DIM)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, -1)
        return value * torch.sigmoid(gate)


class OwnParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.full((DIM,), 0.9)), nn.Parameter(torch.zeros(DIM))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class DerivedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.randn(DIM, DIM) / DIM**0.5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.a @ self.b)


class SlicedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2 * DIM, DIM) / DIM**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, self.weight[:DIM])), self.weight[DIM:])


class LoRA(View):
    def __init__(self):
        super().__init__()
        self.linear.requires_grad_(False)
        self.down, self.up = nn.Linear(DIM, 2, bias=False), nn.Linear(2, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.up(self.down(x))


def _normed(norm: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old functions are deprecated, and in models all the same
            return norm(linear())

    return make


MAKE: dict[str, Callable[[], nn.Module]] = {
    "linear": linear,
    "view": View,
    "transposed": Transposed,
    "mlp": MLP,
    "layernorm": lambda: nn.Sequential(linear(), nn.LayerNorm(DIM)),
    "conv": Conv,
    "attention": Attention,
    "encoder_layer": lambda: nn.TransformerEncoderLayer(DIM, 2, 2 * DIM, dropout=0.0, batch_first=True),
    "lstm": LSTM,
    "packed_lstm": PackedLSTM,
    "batchnorm": BatchNorm,
    "positions": Positions,
    "mutating": Mutating,
    "relu_inside": lambda: nn.Sequential(linear(), nn.ReLU(inplace=True), linear()),
    "nested": Nested,
    "sequential": lambda: nn.Sequential(linear(), nn.Tanh(), linear()),
    "shared_inside": SharedInside,
    "weight_norm": _normed(nn.utils.weight_norm),
    "spectral_norm": _normed(nn.utils.spectral_norm),
    "weight_parametrization": _normed(nn.utils.parametrizations.weight_norm),
    "spectral_parametrization": _normed(nn.utils.parametrizations.spectral_norm),
    "saved_by_function": SavedByFunction,
    "kept_by_function": KeptByFunction,
    "detached_path": DetachedPath,
    "bilinear": Bilinear,
    "gated_output": GatedOutput,
    "own_parameter": OwnParameter,
    "derived_weight": DerivedWeight,
    "sliced_weight": SlicedWeight,
    "lora": LoRA,
    "running_mean": RunningMean,
}
