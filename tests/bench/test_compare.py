"""The benchmark runs its tiny case on a CPU, keeps what it measured, and survives systems that fail."""

from __future__ import annotations

import json

import pytest

from bench import compare, estimate, table
from bench.systems import parse
from bench.systems.zerokit import config_of

SYSTEMS = ("zerokit-0", "zerokit-3", "fsdp2", "ddp", "floor", "plain", "deepspeed-3")
RUN = ("--cases", "tiny", "--device", "cpu", "--nproc", "2", "--commit", "abc")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The result file of one comparison in fp32: one warm-up step and two timed ones."""
    patch = pytest.MonkeyPatch()
    patch.setattr("bench.systems.deepspeed.DeepSpeed.package", "no_such_package")
    arguments = (*RUN, "--precision", "fp32", "--steps", "2", "--warmup", "1", "--rounds", "1", "--timeout", "60")
    out = tmp_path_factory.mktemp("results")
    [path] = compare.main([*arguments, "--systems", *SYSTEMS, "--out", str(out)])
    patch.undo()
    assert [p.suffix for p in sorted(out.iterdir())] == [".json", ".md"], "no half-written file is left"
    return json.loads(path.read_text()), path.with_suffix(".md").read_text()


def runs(result, status):
    return {run["system"]: run for run in result[0]["runs"] if run["status"] == status}


def test_systems_that_can_run_have_figures(result):
    values = result[0]
    good = runs(result, "ok")
    assert set(good) == {"zerokit-0", "zerokit-3", "fsdp2", "ddp", "floor"}, values["systems"]
    for name, run in good.items():
        row = values["systems"][name]
        assert len(run["step_ms"]) == 2 and len(run["losses"]) == 3 and run["world"] == 2
        assert row["p10_ms"] <= row["step_ms"] <= row["p90_ms"]
        assert row["tokens_per_second"] == pytest.approx(64 / row["step_ms"] * 1000)
        assert row["tflops"] == pytest.approx(row["tokens_per_second"] * run["flops_per_token"] / 1e12)
    assert values["facts"]["commit"] == "abc" and values["facts"]["torch"] and values["facts"]["date"]
    assert values["baseline"] == "fsdp2" and values["systems"]["fsdp2"]["allocated_gib"] is None


def test_losses_agree(result):
    """fp32, three steps: only the order of sums differs between the systems."""
    good = runs(result, "ok")
    for name in ("zerokit-0", "zerokit-3", "ddp"):
        assert good[name]["losses"] == pytest.approx(good["fsdp2"]["losses"], abs=2e-6)
    assert good["floor"]["losses"][0] == pytest.approx(good["fsdp2"]["losses"][0], abs=2e-6), "the same first weights"


def test_a_missing_or_failing_system_is_a_row_with_its_reason(result):
    values, markdown = result
    assert values["systems"]["deepspeed-3"]["reason"].startswith("missing: no_such_package is not installed")
    assert "plain runs on one GPU, the case on 2" in values["systems"]["plain"]["reason"]
    assert markdown.count("\n| ") == len(SYSTEMS) + 2
    assert "| deepspeed-3 | missing: no_such_package" in markdown


def test_what_the_budget_does_not_allow_is_skipped(tmp_path):
    [path] = compare.main([*RUN, "--systems", "floor", "--budget", "0.1", "--out", str(tmp_path)])
    rows = json.loads(path.read_text())["systems"]
    assert rows["floor"]["reason"].startswith("skipped: it needs about")


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ("fsdp3", "expected one of zerokit-0"),
        ("fsdp2:reduce=fp8", "reduce is one of fp32, bf16; got 'fp8'"),
        ("fsdp2:prefetch=2", "expected options compile, reduce"),
        ("ddp:env.NCCL_NVLS_ENABLE=1", "stays 0 in every run"),
    ],
)
def test_mistakes_in_a_system_string(system, message):
    with pytest.raises(ValueError, match=message):
        parse(system)


def test_options_of_zerokit_are_config_keys():
    spec = parse("zerokit-3:reduce_dtype=bf16,prefetch=2,train.compile=true,env.PYTORCH_CUDA_ALLOC_CONF=a:b")
    assert spec.env == {"PYTORCH_CUDA_ALLOC_CONF": "a:b"}
    config = config_of(_setup(spec.options))
    assert config["zero"] == {"stage": 3, "prefetch": 2}
    assert config["precision"] == {"name": "bf16", "reduce_dtype": "bf16"}
    assert config["train"]["compile"] is True
    with pytest.raises(ValueError, match="no such key"):
        config_of(_setup({"nonsense": "1"}))


def _setup(options):
    import torch

    from bench.cases import CASES
    from bench.systems import Setup

    return Setup(CASES["tiny"], 0, 1, torch.device("cpu"), 3, options)


def test_quantile_is_linear():
    assert table.quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert table.quantile([0.0, 10.0], 0.9) == pytest.approx(9.0)
    assert table.quantile([7.0], 0.1) == 7.0


def test_predictions_stand_beside_what_was_measured(tmp_path):
    cells = ("tiny/zerokit-3", "tiny-gpt/zerokit-2:checkpointing=full,precision=fp32")
    words = ("--device", "cpu", "--steps", "2", "--warmup", "1", "--commit", "abc", "--out", str(tmp_path))
    path = estimate.main(["--cells", *cells, *words])
    result = json.loads(path.read_text())
    assert [cell["measured"]["status"] for cell in result["cells"]] == ["ok", "ok"]
    assert [cell["predicted"]["precision"] for cell in result["cells"]] == ["bf16", "fp32"]
    assert all(cell["predicted"]["peak"] > 0 and cell["predicted"]["seconds"] > 0 for cell in result["cells"])
    assert len(path.with_suffix(".md").read_text().splitlines()) == 8


def test_cells_side_by_side_have_no_times(tmp_path):
    words = ("--device", "cpu", "--nproc", "1", "--steps", "2", "--warmup", "1", "--commit", "abc", "--together", "2")
    path = estimate.main(["--cells", "tiny/zerokit-3", "tiny/zerokit-0", *words, "--out", str(tmp_path)])
    cells = json.loads(path.read_text())["cells"]
    assert [(cell["system"], cell["measured"]["status"]) for cell in cells] == [
        ("zerokit-3", "ok"),
        ("zerokit-0", "ok"),
    ]
    assert not any("step_ms" in cell["measured"] for cell in cells)
    assert path.with_suffix(".md").read_text().splitlines()[-1].endswith(" | – |  |")


MISTAKES = ("tiny", "none/zerokit-3", "tiny/fsdp2", "tiny/zerokit-7", "tiny/zerokit-2:precision=fp8")


@pytest.mark.parametrize("cell", [*MISTAKES, "tiny/zerokit-2:checkpointing=half", "tiny/zerokit-2:nonsense=1"])
def test_a_wrong_cell_is_refused(cell, capsys):
    with pytest.raises(SystemExit):
        estimate.arguments(["--cells", cell])
    assert cell in capsys.readouterr().err


def test_recorded_runs_are_predicted_without_running_them(result, tmp_path):
    (tmp_path / "runs.json").write_text(json.dumps(result[0]))
    words = ("--results", str(tmp_path / "runs.json"), "--hardware", "h100_ib400", "--out", str(tmp_path / "out"))
    cells = json.loads(estimate.main(list(words)).read_text())["cells"]
    assert [cell["system"] for cell in cells] == ["zerokit-0:precision=fp32", "zerokit-3:precision=fp32"]
    for cell in cells:
        assert cell["predicted"]["precision"] == "fp32", "that of the runs"
        assert cell["measured"]["file"] == "runs.json" and cell["measured"]["commit"] == "abc"
        assert cell["predicted"]["peak"] > 0 and cell["predicted"]["seconds"] > 0


def test_an_unknown_entry_is_named(capsys):
    with pytest.raises(SystemExit):
        estimate.arguments(["--cells", "tiny/zerokit-3", "--hardware", "a10"])
    assert "Did you mean" in capsys.readouterr().err


def test_recorded_runs_need_an_entry_of_the_hardware_table(tmp_path, capsys):
    (tmp_path / "none.json").write_text('{"runs": []}')
    with pytest.raises(SystemExit):
        estimate.arguments(["--results", str(tmp_path / "none.json"), "--hardware", "a100"])
    assert "no run of zerokit" in capsys.readouterr().err


def test_a_curve_counts_its_warm_up_among_its_steps(capsys):
    args = compare.arguments([*RUN, "--curve", "10", "--warmup", "4", "--rounds", "3"])
    assert (args.warmup, args.steps, args.rounds, args.data) == (4, 6, 1, "stdlib")
    with pytest.raises(SystemExit):
        compare.arguments([*RUN, "--curve", "4", "--warmup", "4"])
    assert "--curve: expected more steps than the warm-up's 4; got 4." in capsys.readouterr().err
