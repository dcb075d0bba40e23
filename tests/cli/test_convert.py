from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml

from tests.commands import zerokit
from tests.config.arguments import config
from zerokit.cli.convert import main
from zerokit.config.errors import ConfigError

EXAMPLE = {
    "train_batch_size": 16,
    "gradient_accumulation_steps": 2,
    "optimizer": {"type": "AdamW", "params": {"lr": 3e-4, "betas": [0.9, 0.95], "weight_decay": 0.1}},
    "fp16": {"enabled": True, "initial_scale_power": 12},
    "gradient_clipping": 0.5,
    "zero_optimization": {"stage": 3, "overlap_comm": True, "stage3_prefetch_bucket_size": 5e7},
    "activation_checkpointing": {"partition_activations": True},
    "wandb": {"enabled": True, "project": "a, b"},
}


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps(EXAMPLE))
    return path


def printed(capsys, *words: str) -> str:
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def check(found) -> None:
    assert (found.zero.stage, found.precision.name, found.checkpointing.name) == (3, "fp16", "full")
    assert (found.batch.global_, found.batch.micro, found.batch.accumulation) == (16, None, 2)
    assert (found.optimizer.name, found.optimizer.options.lr, found.optimizer.options.beta2) == ("adamw", 3e-4, 0.95)
    assert (found.train.clip_norm, found.precision.options.initial_scale) == (0.5, 4096)
    assert found.tracker.options.project == "a, b"


def test_every_key_has_a_note(file, capsys):
    text = printed(capsys, file)
    keys = ["train_batch_size=16", "optimizer.params.betas=[0.9,0.95]", "zero_optimization.overlap_comm=true"]
    assert all(f"{key}\n    " in text for key in keys)
    assert max(map(len, text.splitlines())) <= 80


def test_the_overrides_compose_to_the_same_configuration(file, capsys):
    check(config(*shlex.split(printed(capsys, file, "--overrides"))))


def test_a_json_without_a_scheduler_keeps_its_rate(file, capsys):
    assert config(*shlex.split(printed(capsys, file, "--overrides"))).scheduler.name == "constant"
    assert {"override /scheduler": "constant"} in yaml.safe_load(printed(capsys, file, "--yaml"))["defaults"]


def test_the_printed_command_line_is_those_overrides(file, capsys):
    text = printed(capsys, file)
    command = text.partition("python -m zerokit ")[2].partition("\n\n")[0].replace("\\\n", " ")
    assert shlex.split(command) == shlex.split(printed(capsys, file, "--overrides"))


def test_the_yaml_is_an_experiment(file, capsys, tmp_path):
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    text = printed(capsys, file, "--yaml")
    (folder / "ds.yaml").write_text(text)
    check(config("--config-dir", str(tmp_path / "mine"), "experiment=ds"))
    assert yaml.safe_load(text) == yaml.safe_load(printed(capsys, file).partition("# @package _global_")[2])


def test_the_command(file, tmp_path):
    words = shlex.split(zerokit("convert", str(file), "--overrides", cwd=tmp_path).stdout)
    shown = zerokit("--cfg", "job", *words, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "stage: 3" in shown.stdout and "project: a, b" in shown.stdout
    file.write_text('{"zero_optimization": {"stagee": 1}}')
    wrong = zerokit("convert", str(file), cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "zerokit: Unknown key zero_optimization.stagee. Did you mean zero_optimization.stage?\n"


@pytest.mark.parametrize("words", [[], ["a", "b"], ["a", "--yml"]])
def test_usage(words):
    with pytest.raises(ConfigError, match="zerokit convert ds_config.json"):
        main(words)
