from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from zerokit.record.hardware import DEVICES, find_device, find_peak, most_like
from zerokit.train import trainer as module_under_test
from zerokit.train.trainer import peak_of


@pytest.mark.parametrize(
    ("name", "bf16", "tf32", "fp32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312, 156, 19.5),
        ("NVIDIA A100 80GB PCIe", 312, 156, 19.5),
        ("NVIDIA A10", 125, 62.5, 31.2),
        ("NVIDIA A10G", 70, 35, 35),
        ("NVIDIA H100 80GB HBM3", 989.4, 494.7, 66.9),
        ("NVIDIA H100 PCIe", 756.5, 378, 51.2),
        ("NVIDIA H100 NVL", 835.5, 417.5, 60),
        ("NVIDIA H200", 989.4, 494.7, 66.9),
        ("NVIDIA H200 NVL", 835.5, 417.5, 60),
        ("NVIDIA GH200 480GB", 989.4, 494.7, 66.9),
        ("NVIDIA B200", 2250, 1125, 75),
        ("NVIDIA GB200", 2500, 1250, 80),
        ("NVIDIA L4", 121, 60, 30.3),
        ("NVIDIA L40", 181, 90.5, 90.5),
        ("NVIDIA L40S", 362, 183, 91.6),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6),
        ("AMD Instinct MI300X", 1307.4, 653.7, 163.4),
    ],
)
def test_devices_are_found_by_the_names_that_drivers_give(name, bf16, tf32, fp32):
    peak = find_peak(name)
    assert (peak.of("bfloat16"), peak.of("float16")) == (bf16, bf16)
    assert (peak.of("float32", tf32=True), peak.of("float32")) == (tf32, fp32)


@pytest.mark.parametrize(
    "name",
    ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU",
     "NVIDIA GeForce RTX 4080 SUPER", "NVIDIA A1000", "Quadro K42"],
)  # fmt: skip
def test_other_devices_have_no_peak_rather_than_a_wrong_one(name):
    assert find_peak(name) is None


def test_every_entry_is_plausible_and_has_a_source():
    for name, peak in ((name, device.peak) for name, device in DEVICES.items() if device.peak is not None):
        assert peak.half >= peak.tf32 >= peak.single > 1, name
        assert re.match(r"(NVIDIA|AMD) ", peak.source), name


def test_nothing_reaches_more_than_its_datasheet_says():
    rows = [device for device in DEVICES.values() if device.peak is not None and device.reached is not None]
    assert len({device.reached.name for device in rows}) == 3
    for device in rows:
        for dtype, flops in device.reached.flops.items():
            assert 0.5 < flops / 1e12 / device.peak.of(dtype) <= 1, (device.reached.name, dtype)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("NVIDIA H200", "h200_nvlink"),
        ("NVIDIA GH200 480GB", "h200_nvlink"),
        ("NVIDIA H100 80GB HBM3", "h100_ib400"),
        ("NVIDIA H200 MIG 1g.18gb", "h200_nvlink"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "h100_ib400"),
        ("Quadro K42", "h100_ib400"),
    ],
)
def test_estimates_take_the_entry_most_like_a_device(name, entry):
    assert most_like(name).name == entry


def test_a_cpu_has_a_row_too():
    assert find_device("cpu").reached.name == "cpu" and find_peak("cpu") is None


@pytest.mark.parametrize(
    ("compute", "precision", "peak"),
    [(torch.bfloat16, "highest", 989.4), (torch.float32, "highest", 66.9), (torch.float32, "high", 494.7)],
)
def test_the_peak_is_that_of_the_compute_format(monkeypatch, compute, precision, peak):
    monkeypatch.setattr(module_under_test.torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(module_under_test.torch, "get_float32_matmul_precision", lambda: precision)
    numerics = SimpleNamespace(compute=compute)
    assert peak_of(SimpleNamespace(device=torch.device("cuda", 0), numerics=numerics)) == peak
    assert peak_of(SimpleNamespace(device=torch.device("cpu"), numerics=numerics)) is None
