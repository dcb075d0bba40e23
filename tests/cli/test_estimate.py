"""`zerokit estimate`: its tables, its file, and what it refuses."""

from __future__ import annotations

import json
import re

import pytest

from tests.commands import python, zerokit

SMALL = ("launch=cpu", "model.dim=48", "model.layers=2", "model.heads=4", "data=synthetic", "data.seq_len=32")


def test_tables_and_file(tmp_path):
    words = (
        "estimate.hardware=h200_nvlink",
        "estimate.world=[1,2,4,8,16,32,64,100000]",
        "estimate.json=out.json",
        "zero=stage3",
    )
    result = zerokit("estimate", *SMALL, *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in result.stdout
    for text in (
        "activations",
        "logits and loss",
        "stage 3*",
        "selective",
        " 64 ranks",
        "100,000 ranks",
        "tokens/s per rank",
    ):
        assert text in result.stdout
    figures = json.loads((tmp_path / "out.json").read_text())
    cells = {(p["stage"], p["world"], p["checkpointing"]): p for p in figures["predictions"]}
    assert {(stage, world, "none") for stage in range(4) for world in (1, 2, 64)} <= set(cells)
    stage1, stage3 = cells[1, 2, "none"], cells[3, 2, "none"]
    assert stage1["memory"]["optimizer"] == stage3["memory"]["optimizer"]
    assert stage3["peak"] == sum(stage3["memory"].values())
    assert stage3["seconds"] > 0


def test_without_hardware_there_are_no_times_but_all_traffic(tmp_path):
    words = ("optimizer=muon", "model.layers=1", "estimate.json=out.json")
    result = zerokit("estimate", *SMALL, *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "tokens/s" not in result.stdout and "estimate.hardware=NAME" in result.stdout
    rows = dict(re.findall(r"^  (\w[a-z -]+?)  +(.*)$", result.stdout, re.MULTILINE))
    assert list(rows) == ["all-gather", "reduce-scatter", "all-reduce", "all-to-all", "gradient norm"]
    figures = json.loads((tmp_path / "out.json").read_text())["predictions"]
    kinds = {kind for prediction in figures for kind in prediction["calls"]}
    assert kinds == {"all_gather", "reduce_scatter", "all_reduce", "all_to_all", "norm"}
    assert re.fullmatch(r"(2 × [\d.]+ KiB *){4}", rows["all-to-all"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["estimate.hardware=h200"], "Did you mean estimate.hardware=h200_nvlink?"),
        (["estimate.world=[2,0]"], "estimate.world must be at least 1, got 0"),
        (["estimate.world=many"], "estimate.world: expected a list"),
        (["estimate.memory_gib=-1"], "estimate.memory_gib must be above 0"),
        (["-m", "zero=stage1,stage2"], "takes one configuration"),
        (["estimate.hardwar=cpu"], "Did you mean estimate.hardware?"),
        (["model=lama"], "llama"),
    ],
)
def test_bad_input_is_one_line(tmp_path, words, text):
    result = zerokit("estimate", *words, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and text in result.stderr


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    result = zerokit("estimate", *SMALL, "launch=single", "model.layers=1", "estimate.json=no/out.json", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert "estimate.json=no/out.json: cannot be written: there is no folder no." in result.stderr


def test_unknown_hardware_is_told_without_torch(tmp_path):
    code = (
        "import sys\n"
        "from zerokit.cli import run\n"
        "assert run(['estimate', 'estimate.hardware=h200']) == 2\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert python("-c", code, cwd=tmp_path).returncode == 0


def test_data_without_tokens_has_samples(tmp_path):
    words = ("model=mlp", "data=synthetic", "data.task=regression", "estimate.hardware=cpu", "launch=cpu")
    result = zerokit("estimate", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "samples/s per rank" in result.stdout and "tokens" not in result.stdout
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in result.stdout, "what takes most of a small step has a long name"
    assert "waiting: for communication." in lines
    assert "at the peak               24.50" in result.stdout and any(line.startswith("KiB") for line in lines)
