from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from tests.config.arguments import config, configs
from zerokit.callbacks.early_stopping import EarlyStoppingOptions
from zerokit.config import registry
from zerokit.config.compose import FOLDER_GROUPS
from zerokit.config.errors import ConfigError
from zerokit.config.identity import digest
from zerokit.config.paths import CONF, choices
from zerokit.config.schema import Config, TrainConfig

NEEDED = {
    **{f"data={name}": [f"data.files=[{CONF / 'config.yaml'}]"] for name in ("text", "jsonl", "chat")},
    "optimizer=onebit_adam": ["zero=stage1"],
    "model=hf": ["model.path=somebody/some-model"],
    "model=mlp": ["data=synthetic", "data.task=regression"],
}
CHOICES = [f"{group}={name}" for group in FOLDER_GROUPS for name in choices(group)]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_yaml_composes(choice):
    for composed in configs("launch.device=cpu", choice, *NEEDED.get(choice, [])):
        assert composed.train.steps > 0


def test_every_folder_is_a_group_and_every_component_has_a_file():
    assert {folder.name for folder in CONF.iterdir() if folder.is_dir()} == set(FOLDER_GROUPS)
    for group in registry.GROUPS:
        named = {OmegaConf.load(CONF / group / f"{name}.yaml")["name"] for name in choices(group)}
        assert named == set(registry.names(group)) - set(registry.added(group))
    for group in registry.LISTS:
        assert set(choices(group)) == set(registry.names(group)) - set(registry.added(group))


def test_an_option_needs_no_plus():
    assert config("zero.units=[Block]").zero.units == ["Block"], "not in the YAML, but in the schema"
    assert config("+zero.units=[Block]").zero.units == ["Block"]
    assert config("optimizer={lr:0.5}").optimizer.options.lr == 0.5
    assert config("+optimizer=sgd").optimizer.name == "sgd"
    assert config("~train.steps").train.steps == TrainConfig().steps


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], []),
        (["callbacks=[]"], []),
        (["callbacks=early_stopping"], [("early_stopping", 3)]),
        (["callbacks=[early_stopping]", "callbacks.early_stopping.patience=5"], [("early_stopping", 5)]),
        (["callbacks.early_stopping.patience=5"], [("early_stopping", 5)]),
        (["callbacks=[mine,early_stopping]", "callbacks.mine.patience=1"], [("mine", 1), ("early_stopping", 3)]),
        (["callbacks=[early_stopping,mine]"], [("early_stopping", 3), ("mine", 3)]),
    ],
)
def test_callbacks_are_a_list_in_the_order_given(words, found, monkeypatch):
    monkeypatch.setitem(registry._components["callbacks"], "mine", registry.Component(EarlyStoppingOptions, "m:build"))
    composed = config(*words)
    assert [(choice.name, choice.options.patience) for choice in composed.callbacks] == found
    assert Config.from_dict(composed.to_dict()) == composed


def test_a_run_without_callbacks_is_named_as_before_there_were_any():
    values = config("train.steps=3").to_dict()
    assert values["callbacks"] == {}
    assert digest(values) == digest({key: value for key, value in values.items() if key != "callbacks"})
    assert digest(values) != digest(config("train.steps=3", "callbacks=early_stopping").to_dict())


def test_interpolations_are_resolved():
    assert config("train.seed=5", "run.name=seed_${train.seed}").run.name == "seed_5"


def test_every_job_of_a_sweep_is_composed():
    composed = configs("-m", "launch=cpu", "zero=stage0,stage3", "train.steps=1,2,3")
    assert [(c.zero.stage, c.train.steps) for c in composed] == [(s, n) for s in (0, 3) for n in (1, 2, 3)]


def test_a_sweep_is_refused_for_one_wrong_job():
    with pytest.raises(ConfigError, match="train.steps must be at least 1, got 0"):
        configs("-m", "launch=cpu", "train.steps=1,0")


def test_an_overlay_can_be_a_sweep():
    assert [c.zero.stage for c in configs("launch=cpu", "experiment=stages")] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimzer=adamw", "Unknown key optimzer. Did you mean optimizer?"),
        ("+bogus=1", "Unknown key bogus."),
        ("+optimizer.lrr=1", "Unknown key optimizer.lrr. Did you mean optimizer.lr?"),
        ("optimizer=adamx", "optimizer=adamx: there is no such optimizer. Did you mean optimizer=adam"),
        ("+experiment=nope", "experiment=nope: there is no such experiment"),
        ("precision=bf17", "Did you mean precision=bf16?"),
        ("zero.stage=7", "zero.stage: expected one of 0, 1, 2, 3; got 7."),
        ("train.steps=many", "train.steps: expected a whole number; got many."),
        ("train=5", "train: expected options such as train.KEY=VALUE, got 5."),
        ("~optimizer", "optimizer.name is missing"),
        ("~train.bogus", "~train.bogus: there is no such key"),
        ("train.steps=1,2", "add -m"),
        ("train.steps=[1", "Cannot read 'train.steps=[1': write KEY=VALUE"),
        ("train.seed=${nope}", "train.seed: an interpolation cannot be resolved"),
        ("train.seed=???", "train.seed has no value yet"),
        ("hydra.run.folder=x", "Unknown key hydra.run.folder"),
        ("callbacks=[stop_early]", "callbacks=stop_early: there is no such callback. Choices: early_stopping"),
        ("callbacks=[early_stoping]", "no such callback. Did you mean callbacks=early_stopping?"),
        ("callbacks=null", "callbacks=null: for none of them write callbacks=[]"),
        ("callbacks.early_stoping.patience=1", "callbacks: there is no callback 'early_stoping'. Did you mean early"),
        ("callbacks.early_stopping.patence=1", "Unknown key callbacks.early_stopping.patence. Did you mean callbacks"),
        ("callbacks.patience=1", "callbacks.patience: expected options such as callbacks.NAME.KEY=VALUE, got 1."),
        ("model._target_=os.system", "model._target_ is not allowed"),
        ("+_target_=os.system", "_target_ is not allowed"),
        ("run.tags=[{_target_:os.system}]", "_target_ is not allowed"),
        ("+hydra.callbacks.mine._target_=os.system", "hydra.callbacks.mine._target_ is not allowed"),
        ("hydra.launcher._target_=os.system", "hydra.launcher._target_ is not allowed"),
        ("--config-path=/nowhere", "no folder /nowhere"),
        ("--config-dir=/nowhere", "no folder /nowhere"),
        ("--config-name=nowhere", "no config 'nowhere.yaml'"),
        ("--multrun", "Unknown flag --multrun. Did you mean --multirun?"),
    ],
)
def test_errors_name_the_key_and_the_way_out(word, message):
    with pytest.raises(ConfigError) as error:
        configs("launch=cpu", word)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: adamw\nlrr: 1\n", "Unknown key optimizer.lrr. Did you mean optimizer.lr?"),
        ("name: adamw\nlr: [1\n", "Malformed YAML in {file}, line 3, column 1"),
        ("name: adamw\nlr: 1\nlr: 2\n", "Malformed YAML in {file}, line 3"),
        ("name: adamw\nlr:\n  _target_: os.system\n", "optimizer.lr._target_ is not allowed"),
        ("name: adamx\n", "optimizer.name: there is no optimizer 'adamx'"),
        ("lr: 1\n", "optimizer.name is missing"),
    ],
)
def test_errors_inside_a_yaml_file(tmp_path, text, message):
    file = tmp_path / "optimizer" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        configs("launch=cpu", f"--config-dir={tmp_path}", "optimizer=mine")
    assert message.format(file=file) in str(error.value)


def test_a_folder_of_the_user_adds_choices(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /optimizer: sgd\ntrain:\n  steps: 3\n"
    )
    composed = config(f"--config-dir={tmp_path}", "experiment=mine")
    assert (composed.optimizer.name, composed.train.steps) == ("sgd", 3)


def test_a_callback_in_a_file_of_the_user_says_its_package(tmp_path):
    file = tmp_path / "callbacks" / "patient.yaml"
    file.parent.mkdir()
    words = (f"--config-dir={tmp_path}", "callbacks=[patient]")
    file.write_text("# @package callbacks.early_stopping\npatience: 100\n")
    assert config(*words).callbacks[0].options.patience == 100
    file.write_text("early_stopping: 100\n")
    with pytest.raises(ConfigError, match="begins with `# @package callbacks.NAME`"):
        config(*words)


@pytest.fixture
def saved(tmp_path):
    """A config.yaml as a run leaves it."""
    original = config("train.steps=7", "optimizer=sgd", "optimizer.lr=0.25")
    OmegaConf.save(OmegaConf.create(original.to_dict()), tmp_path / "config.yaml")
    return original, [f"--config-path={tmp_path}", "--config-name=config"]


def test_a_saved_config_is_composed_again_as_it_was(saved):
    original, words = saved
    assert configs(*words) == [original]


def test_options_of_a_saved_config_can_be_changed(saved):
    original, words = saved
    (changed,) = configs(*words, "zero.stage=3", "train.steps=9")
    assert (changed.zero.stage, changed.train.steps) == (3, 9)
    assert changed.optimizer == original.optimizer


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lrr=1"], "Unknown key optimizer.lrr. Did you mean optimizer.lr?"),
        (["+bogus=1"], "Unknown key bogus"),
        (["optimizer=adamw"], "composed already"),
    ],
)
def test_a_saved_config_is_checked_too(saved, words, message):
    with pytest.raises(ConfigError, match=message):
        configs(*saved[1], *words)


def test_a_primary_config_of_the_user_can_use_the_groups(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n"
        + "".join(f"  - {g}: {choices(g)[0]}\n" for g in ("precision", "optimizer", "scheduler", "checkpointing"))
        + "  - model: gpt_nano\n  - data: stdlib\n  - tracker: none\n  - launch: cpu\n  - _self_\n"
        + "batch:\n  global: 8\n"
    )
    (composed,) = configs(f"--config-path={tmp_path}", "--config-name=mine")
    assert composed.batch.global_ == 8
    assert composed.model.name == "gpt"
