"""What one does with a finished run: evaluate its weights, let it write, run it again; in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import zerokit
from tests.data.documents import jsonl
from zerokit.cli import run
from zerokit.record.metrics import read_metrics

WORDS = (
    "data=chat", "data.files=[chats.jsonl]", "data.template=plain", "data.seq_len=64",
    "model=llama_350m", "model.dim=32",
    "model.layers=2", "model.heads=4", "model.kv_heads=2", "model.hidden=48", "model.context=128", "train.steps=60",
    "train.log_every=10", "train.sample_tokens=0", "optimizer.lr=0.02", "tracker=none",
    "zero=stage3", "zero.min_unit=0",
    "launch.device=cpu", "launch.threads=1", "estimate.run=false", "state.final_dtype=fp32", "state.every=30",
    "hydra.run.dir=run",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with data and a run on two ranks, which has learned one answer by heart."""
    folder = tmp_path_factory.mktemp("finished")
    jsonl(folder / "chats.jsonl", [{"prompt": f"{i % 7}?", "completion": "yes yes"} for i in range(60)])
    result = zerokit(*WORDS, cwd=folder, timeout=120)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(autouse=True)
def inside(finished, monkeypatch) -> None:
    monkeypatch.chdir(finished)


def figures(capfd, *words: str) -> dict[str, float]:
    assert run(["evaluate", *words]) == 0
    return {name: float(value) for name, value in map(str.split, capfd.readouterr().out.splitlines())}


def test_evaluation_gives_what_the_run_measured_of_its_end_and_of_a_state(capfd):
    lines = read_metrics(Path("run/metrics.jsonl"))
    for given, step in (("run", 60), ("run/state/step-00000030", 30)):
        wanted = next(line for line in lines if line["trainer/step"] == step)
        found = figures(capfd, given)
        assert found["eval/loss"] == pytest.approx(wanted["eval/loss"], rel=1e-4)
        assert found["eval/perplexity"] == pytest.approx(wanted["eval/perplexity"], rel=1e-4)


def test_evaluation_takes_other_data(capfd):
    jsonl(Path("other.jsonl"), [{"prompt": "x", "completion": "zzzzzz"}] * 4)
    assert (
        figures(capfd, "run", "data.held_out_files=[other.jsonl]")["eval/loss"] > figures(capfd, "run")["eval/loss"] + 1
    )


def test_a_model_writes_after_a_prompt_and_after_each_line_of_a_file(capfd):
    assert run(["generate", "run", "--prompt", "3?", "--tokens", "10", "--temperature", "0"]) == 0
    assert capfd.readouterr().out.startswith(" yes yes\n")
    Path("prompts.txt").write_text("1?\n\n2?\n")
    assert run(["generate", "run", "--file=prompts.txt", "--tokens=8", "--temperature=0.1", "--top-p=0.5"]) == 0
    assert capfd.readouterr().out.count(" yes yes") == 2


def test_a_run_again_has_a_folder_of_its_own_and_other_options():
    result = zerokit(
        "rerun", "run", "train.steps=2", "hydra.run.dir=again", "state.every=0", cwd=Path.cwd(), timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(Path("again/summary.json").read_text())["steps"] == 2
    assert json.loads(Path("run/summary.json").read_text())["steps"] == 60


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate"], "Give the folder of a run: zerokit evaluate RUN"),
        (["evaluate", "nowhere"], "nowhere is no run: expected a folder with config.yaml"),
        (["evaluate", "run", "train.eval_samples=0"], "No data are held out"),
        (["evaluate", "run", "train.stepz=1"], "Did you mean"),
        (["generate", "run"], "Give the folder of a run, and a prompt or a file of prompts"),
        (["generate", "run", "--prompts", "x"], "Unknown flag --prompts. Did you mean --prompt?"),
        (["generate", "run", "--prompt"], "--prompt: expected a value"),
        (["generate", "run", "--prompt", "x", "--tokens", "many"], "--tokens: expected a whole number of at least 0"),
        (["generate", "run", "--file", "nowhere.txt"], "--file: nowhere.txt cannot be read: No such file"),
        (["rerun", "chats.jsonl"], "chats.jsonl is no run"),
    ],
)
def test_a_wrong_step_is_one_line_that_says_what_to_do(capfd, words, message):
    assert run(words) == 2
    error = capfd.readouterr().err
    assert message in error.replace("\n", " ") and "Traceback" not in error
