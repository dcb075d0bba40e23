"""Every example runs: its commands as the shell makes them, shortened, in forks of this process."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

from tests.commands import ROOT
from tests.data.tokenizers import decoder, encoder
from tests.docs.forked import program
from tests.huggingface import folders

EXAMPLES = ROOT / "examples"
NOT_RUN = ("slurm",)
"""Folders of examples that other tests run (tests/hosts)."""
SHORT = ("train.steps=3", "train.eval_samples=2", "train.sample_tokens=0", "tracker=none", "estimate.run=false",
         "launch.device=cpu", "launch.threads=1")  # fmt: skip
MODELS = {"finetune_chat.sh": ("llama", decoder), "classify.sh": ("classifier", encoder)}
"""The model that a script is given, with its tokenizer."""
FEWER = {"sweep.sh": ("zero=stage0,stage3", "optimizer.lr=1e-3"), "text_lm.sh": ("data.seq_len=32", "model.dim=32")}
"""Further words that make the trainings of a script small."""


def commands(script: str, here: Path, *arguments: str) -> list[list[str]]:
    """The words of each command that a script gives to Python, as bash expands them."""
    written = here / "commands"
    shell = f"python() {{ printf '%s\\0' \"$@\" '\n' >> {written}; }}; export -f python; exec bash {EXAMPLES / script} "
    subprocess.run(["bash", "-c", shell + '"$@"', "bash", *arguments], cwd=here, check=True, timeout=30)
    found = [part.split("\0")[:-1] for part in written.read_text().split("\n\0")[:-1]]
    assert all(words[:2] == ["-m", "zerokit"] for words in found)
    return [words[2:] for words in found]


def run(words: list[str], here: Path, ranks: int = 1) -> str:
    result = program(words, here, ranks)
    assert result.status == 0, f"{words}\n{result.output}\n{result.errors}"
    return result.output


def script(name: str, here: Path, *arguments: str) -> list[str]:
    """Run the commands of a script; what each printed."""
    found = []
    for words in commands(name, here, *arguments):
        training = words[0] not in ("generate", "evaluate")
        found.append(run(["zerokit", *words, *(SHORT + FEWER.get(name, ()) if training else ())], here))
    return found


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("name", sorted(file.name for file in EXAMPLES.glob("*.sh")))
def test_a_script_runs(name, tmp_path):
    arguments = ()
    if name in MODELS:
        kind, tokenizer = MODELS[name]
        arguments = (str(tokenizer(folders.save(kind, tmp_path, vocabulary=400, context=256))),)
    printed = script(name, tmp_path, *arguments)
    outputs = tmp_path / "outputs"
    if name == "sweep.sh":
        runs = [file.parent for file in outputs.glob("sweep/*/summary.json")]
        assert len(runs) == 2 and (outputs / "sweep" / "report.html").is_file()
    else:
        runs = [folder for folder in outputs.iterdir() if folder.is_dir()]
    assert runs and all(summary(folder)["status"] == "finished" for folder in runs)
    assert all((folder / "model").is_dir() for folder in runs)
    if name == "finetune_chat.sh":
        assert {folder.name for folder in runs} == {"chat_lora", "chat_full"}
        assert (outputs / "chat_lora" / "model" / "adapter_model.safetensors").is_file()
    if name == "classify.sh":
        made = json.loads((outputs / "classify" / "model" / "config.json").read_text())
        assert made["id2label"] == {"0": "bad", "1": "good"} and "eval/accuracy" in printed[1]


def test_a_model_of_ones_own_on_the_command_line(tmp_path):
    words = [str(EXAMPLES / "own_model.py"), "model=own", "model.width=16", "data=synthetic", "data.seq_len=16"]
    run([*words, *SHORT, "zero=stage3", "zero.min_unit=0", "hydra.run.dir=out"], tmp_path)
    assert summary(tmp_path / "out")["model"]["parameters"] == 2 * 256 * 16 + 256 + 2 * (2 * 16 + 6 * 16 * 16 + 6 * 16)
    assert "Number of blocks" in run([str(EXAMPLES / "own_model.py"), "help", "model=own"], tmp_path)


def test_a_loop_of_ones_own_goes_on_on_two_ranks(tmp_path):
    assert "steps 0 to 40" in run([str(EXAMPLES / "own_loop.py"), "40"], tmp_path)
    assert "steps 40 to 44" in run([str(EXAMPLES / "own_loop.py"), "44"], tmp_path, ranks=2)


def test_every_example_is_run_and_told_of():
    told = (EXAMPLES / "README.md").read_text()
    for entry in EXAMPLES.iterdir():
        assert entry.name == "README.md" or f"`{entry.name}" in told, entry
    assert {file.name for file in EXAMPLES.glob("*.py")} == {"own_model.py", "own_loop.py"}
    assert [entry.name for entry in EXAMPLES.iterdir() if entry.is_dir() and entry.name not in ("data", *NOT_RUN)] == []
    assert all(os.access(file, os.X_OK) for file in EXAMPLES.glob("*.sh"))
