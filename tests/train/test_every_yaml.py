"""Every YAML file in conf/ composes, with all its values, and trains two steps in this process.

Files are found by looking: a new one is tested from the day it is added. One that cannot be run fails here; if it only
needs something that a YAML cannot hold, such as a file of the user's, that goes into `NEEDS`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.config.arguments import config, configs
from zerokit.callbacks import Run
from zerokit.comm import Communicator
from zerokit.config import registry
from zerokit.config.compose import OVERLAYS
from zerokit.config.paths import CONF
from zerokit.config.schema import Config
from zerokit.tracker import RunInfo
from zerokit.train.assemble import assemble
from zerokit.train.callbacks import Callbacks, named

FILES = sorted(file.relative_to(CONF).with_suffix("").as_posix() for file in CONF.glob("*/*.yaml"))
SHORT = ("train.steps=2", "train.log_every=1", "train.eval_samples=4", "data.seq_len=32")
SMALL = ("model.dim=32", "model.layers=1", "model.heads=4")
"""Sizes of the default model, for the YAML files of all other groups."""

NEEDS: dict[str, tuple[str, ...]] = {
    "data/text": ("data.files=[book.txt]",),
    "data/jsonl": ("data.files=[rows.jsonl]",),
    "data/chat": ("data.files=[chats.jsonl]", "data.template=plain"),
    "model/hf": ("model.path=tiny", "model.init=random"),
    "model/mlp": ("data=synthetic", "data.task=regression"),
    "scheduler/warmup": ("scheduler.warmup_min_lr=1e-3",),  # DeepSpeed's first two steps have the lowest rate
    "scheduler/warmup_decay": ("scheduler.warmup_min_lr=1e-3",),
    "scheduler/warmup_cosine": ("scheduler.warmup_min_ratio=0.5",),
    "debug/profile": ("profile.after=1", "profile.steps=1"),
    "callbacks/early_stopping": ("train.eval_every=1",),
    "optimizer/onebit_adam": ("zero=stage1",),
}
"""What a YAML cannot be run without, as further words on the command line."""

LARGEST = {"layers": 1, "hidden": 64, "vocab_size": 256, "context": 32}
"""Upper limits of sizes in the YAML of a model; everything else in it is kept."""
HEAD_DIM = 4

TINY = {"model_type": "llama", "vocab_size": 256, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64}  # fmt: skip
"""A model of transformers, as its config.json has it."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with texts and a small model in it, in which the test works; W&B needs no key."""
    (tmp_path / "book.txt").write_text("It was a bright cold day in April. " * 100)
    (tmp_path / "rows.jsonl").write_text('{"text": "a bright cold day"}\n' * 30)
    (tmp_path / "chats.jsonl").write_text('{"prompt": "Is it cold?", "completion": "Yes."}\n' * 60)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(TINY))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path


def shrunk(values: dict[str, Any]) -> list[str]:
    """Words that make the model of a YAML file small."""
    words = [
        f"model.{key}={limit}"
        for key, limit in LARGEST.items()
        if isinstance(values.get(key), int) and values[key] > limit
    ]
    return words + ([f"model.dim={values['heads'] * HEAD_DIM}"] if "dim" in values else [])


def train(cfg: Config, folder: Path) -> None:
    """Train as `cfg` says and check that two steps were taken and made finite numbers."""
    trainer = assemble(cfg, Communicator(torch.device("cpu")))
    before = trainer.engine.reader.sha256()
    info = RunInfo(folder, cfg.to_dict(), cfg.run.name, cfg.run.group, tags=list(cfg.run.tags))
    tracker = registry.build("tracker", cfg.tracker, run=info)
    callbacks = Callbacks(named(Run(cfg, folder, 0, 1, {}, trainer)).values())
    callbacks.on_start()
    lines = []
    for step, metrics in trainer.fit():
        callbacks.on_step(step, metrics)
        if metrics is not None:
            tracker.log(metrics, step)
            lines.append(metrics)
    callbacks.on_end({"status": "finished"})
    tracker.finish({"status": "finished"})
    assert trainer.progress.step == 2
    assert all(math.isfinite(line[name]) for line in lines for name in ("train/loss", "train/grad_norm", "eval/loss")
               if name in line), lines  # fmt: skip
    assert lines[-1]["precision/skipped_steps"] == 0
    assert trainer.engine.reader.sha256() != before, "two steps changed no weight"


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(OVERLAYS)])
def test_a_choice_trains_with_all_its_values(file, folder):
    group, name = file.split("/")
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"{file}.yaml"))
    sizes = shrunk(values) if group == "model" else SMALL
    tracker = () if group == "tracker" else ("tracker=none",)
    needs = NEEDS.get(file, ())
    cfg = config(f"{group}={name}", *needs, *SHORT, *sizes, *tracker)
    changed = {word.partition("=")[0] for word in (*SHORT, *sizes, *needs)}
    composed = cfg.to_dict()[group]
    composed = composed[name] if group in registry.LISTS else composed
    for key, value in values.items():
        follows = isinstance(value, str) and value.startswith("${")  # from other options
        assert follows or f"{group}.{key}" in changed or composed[key] == value, f"{group}.{key}"
    train(cfg, folder)
    if file == "tracker/wandb":
        assert list(folder.glob("wandb/offline-run-*"))


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith(OVERLAYS)])
def test_the_first_job_of_an_overlay_trains_and_the_others_compose(file, folder):
    group, name = file.split("/")
    first, *_ = configs("launch=cpu", f"{group}={name}", *SHORT, *SMALL, *NEEDS.get(file, ()))
    train(first, folder)


def test_the_main_job_trains(folder):
    train(config(*SHORT, *SMALL), folder)


def test_every_file_lies_in_a_group():
    assert [file.name for file in CONF.glob("*") if not file.is_dir()] == ["config.yaml"]
    assert sorted(CONF.rglob("*.yaml")) == sorted([CONF / "config.yaml", *(CONF / f"{file}.yaml" for file in FILES)])
    groups = {file.split("/")[0] for file in FILES}
    assert groups == {*registry.GROUPS, *registry.LISTS, "zero", "launch", *OVERLAYS}
