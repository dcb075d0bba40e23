from __future__ import annotations

import pytest

from tests.config.arguments import config
from zerokit.config import checks
from zerokit.config.checks import known_world
from zerokit.config.errors import ConfigError
from zerokit.config.schema import LaunchConfig


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["batch.global=9"], r"batch.global=9 cannot be divided by .* 1 \* 2 = 2"),
        (["batch.global=null"], "give batch.global or batch.micro"),
        (["launch.nproc=3", "batch.global=8"], r"1 \* 3 = 3"),
        (["scheduler.warmup=50", "train.steps=20"], "scheduler.warmup=50 is longer than the run of 20 steps"),
        (["model=mlp"], "model=mlp does not take the tokens of data=stdlib"),
        (["data=synthetic", "data.task=regression"], "predicts the next token, and data=synthetic is for regression"),
        (["model.context=8"], "model.context=8 is shorter than data.seq_len"),
        (["model.vocab_size=8"], "model.vocab_size=8 is below the 256 tokens"),
        (
            ["optimizer=onebit_adam"],
            "onebit_adam does not work at zero.stage=2.* Choose zero=stage0 or zero=stage1, or",
        ),
        (["optimizer=onebit_adam", "zero=stage3"], "onebit_adam does not work at zero.stage=3"),
        (
            ["model=mlp", "data=synthetic", "data.task=regression", "train.loss_mean=tokens"],
            "this is data for regression",
        ),
        (["optimizer=onebit_adam", "zero=stage1", "train.cuda_graph=true"], "optimizer=onebit_adam change after its"),
        (["checkpointing=cpu", "train.cuda_graph=true"], "checkpointing=cpu takes other host memory in every step"),
        (["data=text", "data.files=[no_such_file]"], "no file matches 'no_such_file'"),
    ],
)
def test_groups_that_do_not_fit_each_other(words, message):
    with pytest.raises(ConfigError, match=message):
        config(*words)


@pytest.fixture
def bare(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_world_size_is_known_without_torch(bare):
    assert known_world(LaunchConfig(device="cpu")) == 2
    assert known_world(LaunchConfig(nproc=5)) == 5
    bare.setenv("CUDA_VISIBLE_DEVICES", "")
    assert known_world(LaunchConfig()) == 2
    bare.setenv("SLURM_STEP_NUM_TASKS", "6")
    assert known_world(LaunchConfig(nproc=5)) == 6
    bare.setenv("RANK", "0")
    bare.setenv("WORLD_SIZE", "8")
    assert known_world(LaunchConfig(nproc=5)) == 8


def test_world_size_is_left_open_where_gpus_may_be(bare):
    bare.setattr(checks, "may_have_gpu", lambda: True)
    assert known_world(LaunchConfig()) is None
    assert known_world(LaunchConfig(device="cpu")) == 2


def test_a_variable_to_copy_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="hydra.job.env_copy: the environment has no variable NOT_THERE"):
        config("hydra.job.env_copy=[NOT_THERE]")
