"""Words as people write them at first: numbers of stages, other cases, bare options, names of other tools."""

from __future__ import annotations

import pytest

from tests.config.arguments import config, configs
from zerokit.config.checks import known_world
from zerokit.config.errors import ConfigError
from zerokit.config.registry import GROUPS
from zerokit.config.schema import SECTIONS
from zerokit.config.usual import CHOICES, KEYS, instead


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("form", ["{}", "'{}'", "stage{}", "[{}]", "[stage{}]"])
def test_the_number_of_a_stage_is_its_name(stage, form):
    assert config(f"zero={form.format(stage)}").zero.stage == stage


@pytest.mark.parametrize("value", ["1,2", "stage1,2", "choice(1,2)", "1, stage2"])
def test_so_it_is_in_a_sweep(value):
    assert [each.zero.stage for each in configs("-m", "launch=cpu", f"zero={value}")] == [1, 2]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("zero=null", "zero=null: there is no such zero. Choices: auto, stage0, stage1"),
        ("zero=true", "zero=true: there is no such zero."),
        ("zero=7", "zero=7: there is no such zero."),
        ("zero=1.5", "zero=1.5: there is no such zero."),
        ("model=1", "model=1: there is no such model."),
        ("precision=16", "precision=16: there is no such precision. Did you mean precision="),
        ("optimizer=null", "optimizer=null: there is no such optimizer."),
        ("data=1e3", "data=1e3: there is no such data."),
        ("experiment=5", "experiment=5: there is no such experiment."),
        ("zero=[stage1,stage2]", "one name is expected, got a list. To run each of them: -m zero=stage1,stage2."),
        ("optimizer=[adamw,sgd]", "one name is expected, got a list."),
        ("optimizer=adamW", "Did you mean optimizer=adamw?"),
        ("optimizer=AdamW", "Did you mean optimizer=adamw?"),
        ("precision=BF16", "Did you mean precision=bf16?"),
        ("zero=Stage3", "Did you mean zero=stage3?"),
        ("ZERO=stage2", "Did you mean zero?"),
        ("optimizer.LR=1", "Did you mean optimizer.lr?"),
        ("lr=1e-3", "lr=1e-3: there is no such key. Write optimizer.lr=1e-3."),
        ("seed=1", "Write train.seed=1"),
        ("LR=1e-3", "Write optimizer.lr=1e-3."),
        ("seq_len=128", "data.seq_len=128"),
        ("learning_rate=1", "Write optimizer.lr=1."),
        ("batch_size=4", "Write batch.global=4."),
        ("epochs=3", "Write train.steps=N; "),
        ("bf16=true", "Write precision=bf16."),
        ("max_steps=3", "Write train.steps=3."),
        ("gradient_accumulation_steps=2", "Write batch.accumulation=2."),
        ("deepspeed=ds.json", "Write what `zerokit convert FILE` prints for the file."),
        ("train.max_steps=3", "Unknown key train.max_steps. Write train.steps=VALUE."),
        ("optimizer.learning_rate=3", "Unknown key optimizer.learning_rate. Write optimizer.lr=VALUE."),
    ],
)
def test_what_to_write_instead(word, told):
    with pytest.raises(ConfigError) as error:
        configs("launch=cpu", word)
    assert told in str(error.value), error.value
    assert "\n" not in str(error.value)


def test_a_sweep_over_what_is_no_name_is_refused():
    with pytest.raises(ConfigError, match="model=1: there is no such model"):
        configs("-m", "launch=cpu", "model=1,2")


def test_hints_name_what_there_is():
    for key, names in KEYS.items():
        section = key.split(".")[0]
        assert section in SECTIONS or section in GROUPS or section == "hydra"
        assert all(instead(name, "1") == f"{key}=1" for name in names.split())
    assert set(CHOICES) <= {*GROUPS, *SECTIONS}
    for word in ("batch.global=8", "batch.accumulation=2", "optimizer.lr=1", "train.clip_norm=1", "scheduler.warmup=2"):
        config(word)
    assert known_world(config("launch.nproc=3", "batch.global=6").launch) == 3
