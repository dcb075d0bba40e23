from __future__ import annotations

import json

import pytest

from tests.commands import python
from zerokit.train.out_of_memory import (
    Shortage,
    explained,
    read_shortage,
)

GIB = 1 << 30
MIB = 1 << 20
TEXT = (
    "CUDA out of memory. Tried to allocate {wanted}. GPU 0 has a total capacity of 79.11 GiB of which 1.20 GiB is "
    "free. {others}Including non-PyTorch memory, this process has 74.00 GiB memory in use. Of the allocated memory "
    "70.00 GiB is allocated by PyTorch, and {reserved} is reserved by PyTorch but unallocated. If reserved but "
    "unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
SCRIPT = '''
from dataclasses import dataclass
import torch, zerokit
from torch import nn

@dataclass
class Options:
    text: str = ""
    """What the allocator says."""
    early: bool = False
    """Whether it says so before there is an engine."""

class Wide(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.options, self.calls = options, 0
        self.blocks = nn.ModuleList(nn.Linear(64, 64) for _ in range(8))
        if options.early:
            raise torch.OutOfMemoryError(options.text)

    def forward(self, x):
        self.calls += 1
        for block in self.blocks:
            x = block(x)
        if self.calls == 2 and not x.is_meta:
            raise torch.OutOfMemoryError(self.options.text)
        return x

@zerokit.register("model", "wide", Options)
def build(options, data):
    return Wide(options)

zerokit.main()
'''


def fail(folder, text: str, *words: str):
    """Run a model that reports `text`; its summary and what was printed to standard error."""
    (folder / "wide.py").write_text(SCRIPT)
    (folder / "mine").mkdir()
    (folder / "mine" / "own.yaml").write_text(f"defaults: [config, _self_]\nmodel:\n  text: {json.dumps(text)}\n")
    data = ("data=synthetic", "data.task=regression", "data.in_features=64", "data.out_features=64")
    result = python(
        "wide.py", "--config-path", "mine", "--config-name", "own", "model=wide", *data, "zero=stage1",
        "zero.min_unit=1", "batch.global=12", "tracker=none", "hydra.run.dir=run", *words, cwd=folder, timeout=120,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    return json.loads((folder / "run" / "summary.json").read_text()), result.stderr


def rows(stderr: str) -> dict[str, str]:
    """The remedies by what is to be typed, with what follows."""
    table = stderr.partition("cheapest first")[2].partition("\n\n")[0].splitlines()[1:]
    return {line[2:].split("  ")[0]: line for line in table}


def test_a_failed_run_says_what_was_held_and_what_to_type(tmp_path):
    text = TEXT.format(wanted="3.20 GiB", others="Process 4711 has 3.00 GiB memory in use. ", reserved="1.00 GiB")
    summary, stderr = fail(tmp_path, text)
    line = next(line for line in stderr.splitlines() if line.startswith("zerokit: "))
    assert line.removeprefix("zerokit: ") == summary["error"]
    assert "Out of memory: 3.20 GiB were asked for, 1.20 GiB were free of 79.1 GiB." in line
    assert (
        "parameters 132 KiB, gradients 132 KiB, optimizer states 132 KiB, buffers 0 B, activations and the rest" in line
    )
    assert line.endswith("The cheapest option that may be enough: (end the GPU's other processes)")
    table = rows(stderr)
    assert list(table) == [
        "(end the GPU's other processes)", "PYTORCH_ALLOC_CONF=expandable_segments:True", "zero=stage2", "zero=stage3",
        "batch.micro=3", "precision=bf16", "optimizer.moments=bf16", "optimizer.moments=int8",
    ]  # fmt: skip
    assert table["(end the GPU's other processes)"].startswith("* ")
    assert table["zero=stage3"].startswith("  ")
    assert stderr.count("Traceback") == 1
    assert "Tried to allocate 3.20 GiB" in (tmp_path / "run" / "logs" / "rank0.log").read_text()
    assert "Give each rank less to hold" in (tmp_path / "run" / "report.html").read_text()


def test_what_is_in_use_already_is_not_advised(tmp_path):
    text = TEXT.format(wanted="1.21 GiB", others="", reserved="1.00 MiB")
    formats = ("precision=bf16", "precision.master=split24", "optimizer.moments=int8")
    words = ("checkpointing=full", "batch.accumulation=2", "zero=stage3", *formats)
    _, stderr = fail(tmp_path, text, *words)
    assert list(rows(stderr)) == ["batch.micro=1 batch.accumulation=6"]


def test_before_there_is_an_engine_the_error_is_short(tmp_path):
    text = TEXT.format(wanted="2.00 GiB", others="", reserved="1.00 MiB")
    summary, _ = fail(tmp_path, text, "model.early=true")
    assert summary["error"].endswith("1.20 GiB were free of 79.1 GiB. It was not enough for the model's states.")


def test_the_text_of_the_allocator_is_read():
    others = "Process 1 has 1.50 GiB memory in use. Process 2 has 512.00 MiB memory in use. "
    text = TEXT.format(wanted="20.00 MiB", others=others, reserved="300.00 MiB")
    shortage = read_shortage(text)
    assert shortage == Shortage(20 * MIB, 1.2 * GIB, 79.11 * GIB, 300 * MIB, 2 * GIB)
    assert shortage.missing == 0
    assert read_shortage("CUDA error: out of memory") == Shortage(None, None, None, 0, 0)
    host = read_shortage("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes.")
    assert host.wanted == 80 and host.missing is None


@pytest.mark.parametrize(
    "error", [ValueError("CUDA out of memory"), RuntimeError("shapes differ"), KeyboardInterrupt()]
)
def test_other_errors_stay_what_they_are(error):
    assert explained(error, None, None, None) is error
