from __future__ import annotations

import pytest
import torch

from zerokit.zero.update.master import MASTERS, Split, Split24


def bit_patterns() -> torch.Tensor:
    """Finite fp32 values: all exponents, both signs, ties and their neighbours in the 16 bits that bf16 drops."""
    high = torch.arange(0, 0x7F80, 7, dtype=torch.int32) << 16
    low = torch.tensor([0, 1, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
    positive = (high[:, None] | low).flatten()
    return torch.cat([positive, positive | -(2**31)]).view(torch.float32)


@pytest.mark.parametrize("name", ["separate", "split"])
def test_master_weights_are_exact(name):
    master, value = MASTERS[name], bit_patterns()
    weight, extra = torch.empty_like(value, dtype=torch.bfloat16), torch.empty_like(value, dtype=master.extra)
    master.store(weight, extra, value)
    assert torch.equal(master.load(weight, extra).view(torch.int32), value.view(torch.int32))


def test_split_rounds_to_nearest():
    value = bit_patterns()
    value = value[value.abs() < 3e38]
    weight, extra = torch.empty_like(value, dtype=torch.bfloat16), torch.empty_like(value, dtype=torch.int16)
    Split.store(weight, extra, value)
    tie = (value.view(torch.int32) & 0xFFFF) == 0x8000
    assert torch.equal(weight[~tie], value[~tie].bfloat16())
    assert torch.all((weight.float() - value).abs() <= (value.bfloat16().float() - value).abs())


def test_split24_keeps_16_significant_bits():
    value = bit_patterns()
    value = value[value.abs() < 3e38]
    weight, extra = torch.empty_like(value, dtype=torch.bfloat16), torch.empty_like(value, dtype=torch.int8)
    Split24.store(weight, extra, value)
    kept = Split24.load(weight, extra)
    normal = value.abs() >= 2.0**-126
    assert ((kept - value).abs() <= value.abs() * 2.0**-16 / 2)[normal].all()
    low = kept.view(torch.int32) & 0xFFFF
    assert torch.equal(weight[low != 0x8000], kept[low != 0x8000].bfloat16())  # the bf16 weight is the nearest
    again_weight, again_extra = torch.empty_like(weight), torch.empty_like(extra)
    Split24.store(again_weight, again_extra, kept)
    assert torch.equal(again_weight, weight) and torch.equal(again_extra, extra)
