"""The table of DeepSpeed's keys, key by key."""

from __future__ import annotations

from typing import get_args

import pytest

from zerokit.compat.deepspeed.rows import LEAVE, Kind, Row
from zerokit.compat.deepspeed.table import OPTIMIZERS, ROWS, SCHEDULERS, optimizer_kind
from zerokit.compat.deepspeed.translation import Facts, translate
from zerokit.config import registry
from zerokit.config.errors import ConfigError
from zerokit.config.parse import parse_fields
from zerokit.config.schema import Config

FP16 = {"fp16.enabled": True}
BF16 = {"bf16.enabled": True}
WANDB = {"wandb.enabled": True}

BECOMES = {
    "train_batch_size": (32, {}, {"batch.global": 32}),
    "train_micro_batch_size_per_gpu": (4, {}, {"batch.micro": 4}),
    "gradient_accumulation_steps": (8, {}, {"batch.accumulation": 8}),
    "bf16.enabled": (True, {}, {"precision": "bf16"}),
    "fp16.enabled": (True, {}, {"precision": "fp16"}),
    "fp16.loss_scale": (128, FP16, {"precision.loss_scale": 128.0}),
    "fp16.initial_scale_power": (10, FP16, {"precision.initial_scale": 1024.0}),
    "fp16.loss_scale_window": (500, FP16, {"precision.window": 500}),
    "fp16.hysteresis": (4, FP16, {"precision.hysteresis": 4}),
    "fp16.consecutive_hysteresis": (True, FP16, {"precision.consecutive_hysteresis": True}),
    "fp16.min_loss_scale": (2, FP16, {"precision.min_scale": 2.0}),
    "data_types.grad_accum_dtype": ("bf16", BF16, {"precision.accumulate_dtype": "bf16"}),
    "communication_data_type": ("fp16", FP16, {"precision.reduce_dtype": "fp16"}),
    "gradient_clipping": (0, {}, {"train.clip_norm": None}),
    "zero_optimization.stage": (3, {}, {"zero": "stage3"}),
    "zero_optimization.zero_hpz_partition_size": (4, {"zero_optimization.stage": 3}, {"zero.shard_size": 4}),
    "zero_optimization.offload_optimizer.device": ("cpu", {}, {"zero.offload": "states"}),
    "zero_optimization.cpu_offload": (True, {}, {"zero.offload": "states"}),
    "zero_optimization.mics_shard_size": (2, {"zero_optimization.stage": 3}, {"zero.shard_size": 2}),
    "activation_checkpointing": ({"profile": False}, {}, {"checkpointing": "full"}),
    "activation_checkpointing.cpu_checkpointing": (True, {}, {"checkpointing": "cpu"}),
    "compile.deepcompile": (True, {}, {"train.compile": True}),
    "compile.enabled": (True, {}, {"train.compile": True}),
    "steps_per_print": (50, {}, {"train.log_every": 50}),
    "wandb.enabled": (True, {}, {"tracker": "wandb"}),
    "wandb.project": ("mine", WANDB, {"tracker.project": "mine"}),
    "wandb.team": ("ours", WANDB, {"tracker.entity": "ours"}),
    "wandb.group": ("sweep", WANDB, {"run.group": "sweep"}),
}
"""For each key that becomes one of zerokit's: a value, what it needs beside it, and what it becomes."""


def nested(flat: dict) -> dict:
    """Dotted keys as the sections that a JSON file has."""
    config: dict = {}
    for key, value in flat.items():
        *path, name = key.split(".")
        section = config
        for part in path:
            section = section.setdefault(part, {})
        section[name] = value
    return config


def example(row: Row):
    """Some value of a key without meaning."""
    for kind, value in ((bool, True), (int, 7), (float, 0.5), (str, "x"), (list, []), (dict, {"a": 1})):
        if row.kind in (kind, kind | None):
            return value
    return True


def ids(row: Row) -> str:
    return row.key


TARGETED = [row for row in ROWS if row.to]
MOOT = [row for row in ROWS if row.auto == "nothing"]
REFUSED = [row for row in ROWS if row.accepts is not None]
SCRIPT = [row for row in ROWS if row.script and not row.to]


def test_every_key_is_of_one_sort_and_listed_once():
    assert len({row.key for row in ROWS}) == len(ROWS) == sum(map(len, (TARGETED, MOOT, REFUSED, SCRIPT)))
    assert set(BECOMES) == {row.key for row in TARGETED}
    assert all(row.note and not row.note.endswith(".") for row in ROWS)


@pytest.mark.parametrize("row", TARGETED, ids=ids)
def test_a_key_becomes_what_it_says(row):
    value, beside, expected = BECOMES[row.key]
    before = translate(nested(beside)).settings
    result = translate(nested({**beside, row.key: value}))
    changed = {k: v for k, v in result.settings.items() if before.get(k, LEAVE) != v}
    assert expected.items() <= changed.items()
    assert {k.partition(".")[0] for k in changed} <= {k.partition(".")[0] for k in expected} | {"run"}
    ((key, setting),) = expected.items()
    (note,) = [note for note in result.notes if note.key == row.key]
    assert note.became.startswith(f"{key}=") and note.text == row.note
    with_batch = translate(nested({"train_batch_size": 8, **beside, row.key: value}))
    config = Config.from_dict({**CHOICES, **with_batch.nested()})  # it is a valid configuration
    assert actual(config, key) == setting


CHOICES = {
    group: {"name": name}
    for group, name in {
        "optimizer": "adamw", "scheduler": "constant", "model": "mlp", "data": "synthetic", "precision": "fp32",
        "checkpointing": "none", "tracker": "none",
    }.items()
}  # fmt: skip


def actual(config: Config, key: str):
    """The value of a key of zerokit's configuration; the choice of a group for a group."""
    section, _, option = key.partition(".")
    values = config.to_dict()[section]
    if key == "zero":
        return f"stage{values['stage']}"
    return values[option or "name"]


@pytest.mark.parametrize("row", MOOT, ids=ids)
def test_a_key_without_meaning_is_accepted_with_a_line(row):
    beside = {"optimizer.type": "Adam"} if row.key.startswith("optimizer.") else {}
    for value in (example(row), "auto"):
        result = translate(nested({**beside, row.key: value}))
        (note,) = [note for note in result.notes if note.key == row.key]
        assert note.became == "" and note.text == row.note
        ignored = {"checkpointing"} if row.key.startswith("activation_checkpointing.") else set()
        assert {k: v for k, v in result.settings.items() if k not in ignored} == {
            k: v for k, v in translate(nested(beside)).settings.items() if k not in ignored
        }


@pytest.mark.parametrize("row", REFUSED, ids=ids)
def test_a_key_that_is_not_supported_is_an_error_with_the_alternative(row):
    if row.kind is dict:
        wrong, right = [{"enabled": True, "other": 1}, {"other": 1}], [{"enabled": False, "other": 1}, {}]
    else:
        harmless = [value for value in row.accepts if value is not None]
        wrong = [{bool: True, int: 4, float: 0.5, str: "cpu", bool | None: True}.get(row.kind, "x")]
        wrong = [{"a": 1}] if row.kind == dict | None else wrong
        right = harmless
    for value in wrong:
        with pytest.raises(ConfigError) as error:
            translate(nested({row.key: value}))
        assert str(error.value).startswith(row.key) and row.note in str(error.value)
    for value in right:
        assert translate(nested({row.key: value})).settings == translate({}).settings


@pytest.mark.parametrize("row", SCRIPT, ids=ids)
def test_a_key_of_the_script_is_handed_on(row):
    other = next((value for value in get_args(row.kind) if value != row.default), not row.default)
    assert translate(nested({row.key: other})).script[row.key] == other


def test_what_is_not_given_is_deepspeeds_default():
    defaults = translate({}).settings
    assert defaults["zero"] == "stage0" and defaults["precision"] == "fp32" and defaults["checkpointing"] == "none"
    assert defaults["train.clip_norm"] == 1.0
    half = translate({"fp16": {"enabled": True}}).settings
    assert (half["precision.initial_scale"], half["precision.window"], half["precision.hysteresis"]) == (65536, 1000, 2)
    assert translate({"bf16": {"enabled": True}}).settings["precision.accumulate_dtype"] == "fp32"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"zero_optimisation": {"stage": 1}}, "Unknown key zero_optimisation. Did you mean zero_optimization?"),
        ({"zero_optimization": {"stge": 1}}, "zero_optimization.stge. Did you mean zero_optimization.stage?"),
        ({"fp16": {"enable": True}}, "fp16.enable. Did you mean fp16.enabled?"),
        ({"activation_checkpointing": {"cpu_checkpoint": True}}, "cpu_checkpointing?"),
        ({"flops_profiler": {"profile_stp": 1}}, "profile_step?"),
        ({"optimizer": {"typ": "Adam"}}, "optimizer.typ. Did you mean optimizer.type?"),
        ({"optimizer": {"type": "Adamx"}}, "optimizer.type=Adamx: neither DeepSpeed nor PyTorch has this"),
        ({"optimizer": {"type": "Adam", "params": {"weight_deca": 0}}}, "optimizer.params.weight_decay?"),
        ({"optimizer": {"params": {"lr": 1}}}, "optimizer.type is missing"),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage: expected one of 0, 1, 2, 3; got 4"),
        ({"zero_optimization": True}, "zero_optimization: expected keys with values"),
        ({"train_batch_size": "8x"}, "train_batch_size: expected a whole number"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "bf16.enabled and fp16.enabled are both true"),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, "data_types.grad_accum_dtype=bf16 needs bf16.enabled"),
        ({"communication_data_type": "fp16", "bf16": {"enabled": True}}, "needs fp16.enabled"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(ConfigError) as error:
        translate(config)
    assert message in str(error.value)


def test_auto_is_resolved_or_says_what_is_missing():
    facts = Facts("bf16", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1})
    config = {
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": 2,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
        },
        "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"},
    }
    settings = translate(config, facts).settings
    assert settings["precision"] == "bf16" and settings["batch.global"] is None
    assert [settings[f"optimizer.{k}"] for k in ("lr", "beta1", "beta2", "eps", "weight_decay")] == [
        0.01, 0.8, 0.9, 1e-6, 0.1]  # fmt: skip
    for changed, message in (
        ({"zero_optimization": {"stage": "auto"}}, "zero_optimization.stage is 'auto'"),
        ({"gradient_clipping": "auto"}, "gradient_clipping is 'auto'"),
    ):
        with pytest.raises(ConfigError, match=message):
            translate(config | changed, facts)
    with pytest.raises(ConfigError, match="optimizer.params.lr is 'auto', but there is no optimizer"):
        translate(config, Facts("bf16"))
    with pytest.raises(ConfigError, match="bf16.enabled is 'auto', which follows from the model"):
        translate(config)


def test_all_that_is_not_taken_over_is_told_at_once():
    offload = {"offload_optimizer": {"ratio": 0.5}, "offload_param": {"device": "nvme", "nvme_path": "/fast"}}
    with pytest.raises(ConfigError) as refused:
        translate({"optimizer": {"type": "Adam"}, "zero_optimization": {"stage": 3, **offload}})
    keys = [line.partition(" is not supported: ")[0] for line in str(refused.value).splitlines()]
    assert keys == ["zero_optimization.offload_optimizer.ratio=0.5", "zero_optimization.offload_param.device=nvme"]


@pytest.mark.parametrize(
    ("asked", "home"),
    [
        ({"offload_optimizer": {"device": "cpu", "pin_memory": True}}, "states"),
        ({"cpu_offload": True}, "states"),
        ({"offload_optimizer": {"device": "none"}}, "none"),
    ],
)
def test_states_on_the_host(asked, home):
    settings = translate({"optimizer": {"type": "Adam"}, "zero_optimization": {"stage": 2, **asked}}).settings
    assert settings.get("zero.offload", "none") == home


def test_states_on_disk_are_refused():
    asked = {"stage": 2, "offload_optimizer": {"device": "nvme", "nvme_path": "/fast"}}
    with pytest.raises(ConfigError, match=r"offload_optimizer.device.*nvme"):
        translate({"optimizer": {"type": "Adam"}, "zero_optimization": asked})


KINDS = [("optimizer", name, kind) for name, kind in OPTIMIZERS.items()] + [
    ("scheduler", name, kind) for name, kind in SCHEDULERS.items()
]


@pytest.mark.parametrize(("group", "name", "kind"), KINDS, ids=[name for _, name, _ in KINDS])
def test_every_type_of_optimizer_and_scheduler(group, name, kind: Kind):
    if kind.refused:
        with pytest.raises(ConfigError, match=f"{group}.type={name} is not supported"):
            translate({group: {"type": name}})
        return
    options = registry.options_type(group, kind.name)
    required = {row.key: VALUES[row.key] for row in kind.rows if row.key in REQUIRED}
    for row in kind.rows:
        if row.accepts is not None:
            with pytest.raises(ConfigError, match=f"{group}.params.{row.key}=.* is not supported"):
                translate({group: {"type": name, "params": {**required, row.key: VALUES[row.key]}}})
            continue
        if not row.to:
            continue
        assert hasattr(options(), row.to), f"{kind.name} has no option {row.to}"
        value = not row.default if row.kind is bool else VALUES.get(row.key, 7)
        settings = translate({group: {"type": name, "params": {**required, row.key: value}}}).settings
        assert settings[f"{group}.{row.to}"] == row.value(value), row.key
    settings = translate({group: {"type": name, "params": required}}).nested()[group]
    assert settings.pop("name") == kind.name
    parse_fields(options, settings, group)  # DeepSpeed's defaults are valid


REQUIRED: tuple[str, ...] = ()
VALUES = {
    "lr": 0.25, "betas": [0.7, 0.8], "eps": 1e-5, "weight_decay": 0.125, "bias_correction": False, "amsgrad": True,
    "max_grad_norm": 1.0, "eps_inside_sqrt": True, "dampening": 0.1,
    "warmup_type": "linear", "momentum": 0.5, "beta2_decay": -0.5, "cycle_min_mom": 0.5, "cycle_max_mom": 0.75,
    "warmup_min_ratio": 0.5, "cos_min_ratio": 0.25, "muon_lr": 0.5, "adam_lr": 0.25, "d": 2.0,
}  # fmt: skip


def test_adam_is_adamw_unless_told_otherwise():
    def chosen(kind: str, **params):
        return translate({"optimizer": {"type": kind, "params": params}}).settings["optimizer"]

    assert chosen("Adam") == chosen("ADAM", adam_w_mode=True) == chosen("AdamW") == "adamw"
    assert chosen("Adam", adam_w_mode=False) == "adam"
    assert optimizer_kind("Adam", {"adam_w_mode": False}).name == "adam"
    assert chosen("AdamW", adam_w_mode=False) == "adamw"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"zero_hpz_partition_size": 4}, {"zero.shard_size": 4, "zero.states": "all"}),
        ({"mics_shard_size": 4}, {"zero.shard_size": 4}),
        ({"zero_hpz_partition_size": 1, "mics_shard_size": -1}, {}),
        ({"zero_hpz_partition_size": 4, "stage": 2}, {}),
    ],
)
def test_groups_of_processes_are_zerokits(given, expected):
    settings = translate({"zero_optimization": {"stage": 3, **given}}).settings
    assert {key: value for key, value in settings.items() if key in ("zero.shard_size", "zero.states")} == expected
