"""The script of the page on DeepSpeed, unchanged but for the stage, as a user starts it, and small parts of the API."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest
import torch
from torch.utils.data import TensorDataset

import zerokit.compat.deepspeed as deepspeed
from tests.commands import environment
from tests.compat.scripts import Net, make, train
from tests.docs.pages import SCRIPTS
from tests.ranks import run_ranks
from zerokit.config.errors import ConfigError

SCRIPT = SCRIPTS["sample.py"]
SHOW = "\nassert model_engine.engine.micro_batches == 1\nprint('done')\n"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--nproc_per_node", "2"]])
def test_the_script_of_the_page(tmp_path, stage, launcher):
    assert '"stage": 1' in SCRIPT
    file = tmp_path / "sample.py"
    file.write_text(SCRIPT.replace('"stage": 1', f'"stage": {stage}') + SHOW)
    words = [sys.executable, *launcher, str(file)]
    result = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    world = 2 if launcher else 1
    assert result.stdout.count("done") == world  # printed by both at once, perhaps


def test_a_batch_that_does_not_divide_shows_the_arithmetic():
    with pytest.raises(ConfigError) as error:
        make(1, train_batch_size=9, train_micro_batch_size_per_gpu="auto")
    expected = "train_batch_size=9 cannot be divided by accumulation * processes = 2 * 1 = 2: the rest is 1"
    assert expected in str(error.value)
    with pytest.raises(ConfigError, match="train_batch_size=9 does not equal micro"):
        make(1, train_batch_size=9)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4}, (8, 2, 4)),
        ({"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2}, (8, 2, 4)),
        ({"train_batch_size": 8, "gradient_accumulation_steps": 2}, (8, 4, 2)),
        ({"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3}, (6, 2, 3)),
        ({"train_batch_size": 8}, (8, 8, 1)),
        ({"train_micro_batch_size_per_gpu": 2}, (2, 2, 1)),
    ],
)
def test_the_batch_triple(given, expected):
    engine, *_ = deepspeed.initialize(model=Net(), config=given)
    found = (engine.train_batch_size(), engine.train_micro_batch_size_per_gpu(), engine.gradient_accumulation_steps())
    assert found == expected


def test_accumulation_alone_fixes_no_batch():
    with pytest.raises(ConfigError, match="give train_batch_size or train_micro_batch_size_per_gpu"):
        deepspeed.initialize(model=Net(), config={"gradient_accumulation_steps": 2})


def test_training_data_becomes_a_loader_of_this_ranks_samples():
    def run() -> list:
        data = TensorDataset(torch.arange(20.0))
        engine, _, loader, _ = make(2, training_data=data)
        passes = [torch.cat([batch for (batch,) in loader]).tolist() for _ in range(2)]
        return [len(loader), passes]

    (length, (first, second)), (_, (other, _)) = run_ranks(run, 2)
    assert length == 5 and sorted(first + other) == list(range(20)) and first != second
    repeating = deepspeed.utils.RepeatingLoader([1, 2])
    assert [next(repeating) for _ in range(5)] == [1, 2, 1, 2, 1]


def test_arguments_of_the_command_line(tmp_path):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"train_batch_size": 2}))
    parser = deepspeed.add_config_arguments(argparse.ArgumentParser())
    args = parser.parse_args(["--deepspeed", "--deepspeed_config", str(file)])
    engine, *_ = deepspeed.initialize(args=args, model=Net())
    assert args.deepspeed and engine.train_batch_size() == 2
    with pytest.raises(ConfigError, match=r"initialize\(config=...\) is missing"):
        deepspeed.initialize(model=Net())
    with pytest.raises(ConfigError, match="mpu and mesh_param"):
        deepspeed.initialize(model=Net(), config={"train_batch_size": 2}, mpu=object())


def test_lines_about_keys_without_effect_and_progress(caplog):
    deepspeed.logger.addHandler(caplog.handler)
    engine, *_ = make(2, steps_per_print=2, communication_data_type=None, wall_clock_breakdown=True, dump_state=True)
    train(engine, 4)
    deepspeed.logger.removeHandler(caplog.handler)
    lines = list(dict.fromkeys(record.getMessage() for record in caplog.records))  # the root logger may see them too
    assert any(line.startswith("wall_clock_breakdown: no effect here; ") for line in lines)
    assert [line.partition(":")[0] for line in lines if line.startswith("step ")] == ["step 2", "step 4"]
    assert all(
        "loss" in line and "grad norm" in line and "lr 0.01" in line for line in lines if line.startswith("step ")
    )
    assert any(line.startswith("zero: ") and "'stage': 2" in line for line in lines), lines


def test_names_that_libraries_look_for():
    assert deepspeed.runtime.lr_schedules.VALID_LR_SCHEDULES[0] == "LRRangeTest"
    assert deepspeed.runtime.engine.DeepSpeedEngine is deepspeed.DeepSpeedEngine
    assert deepspeed.accelerator.get_accelerator().communication_backend_name() in ("gloo", "nccl")
    deepspeed.init_distributed()
    assert (deepspeed.comm.get_rank(), deepspeed.dist.get_world_size()) == (0, 1) and deepspeed.comm.is_initialized()
    x = torch.ones(3, requires_grad=True)
    deepspeed.checkpointing.checkpoint(lambda t: t * t, x).sum().backward()
    assert x.grad.tolist() == [2.0] * 3
    with pytest.raises(AttributeError, match="has no 'init_inference'"):
        _ = deepspeed.init_inference
