"""What a finished run leaves: its last weights for other programs, and the state of its best evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.commands import zerokit
from tests.config.arguments import config
from tests.ranks import run_ranks
from tests.state.trained import open_trainer
from tests.train.test_export import LLAMA
from zerokit.callbacks import Run
from zerokit.config.errors import ConfigError
from zerokit.state.errors import StateError
from zerokit.state.folder import saved_states
from zerokit.train.export import export, export_final
from zerokit.train.final import Final


def _final(folder: Path, words: tuple[str, ...]) -> None:
    """Train with a saved end; write the weights of the end from the engine and from the state."""
    trainer, saver = open_trainer(folder, *words, "state.every=2", "train.steps=2", "state.asynchronous=false")
    for step, metrics in trainer.fit():
        saver.on_step(step, metrics)
    saver.finish(2)
    config = saver.facts["config"]
    for name in ("float32", "bfloat16"):
        export_final(trainer.engine, config, folder / name, name)
        export_final(trainer.engine, config, folder / name, name)  # in place of what is there
        if trainer.comm.rank == 0:
            export(folder / "state" / "step-00000002", folder / f"{name} of state", name)


@pytest.mark.parametrize("words", [
    ("zero=stage3", "zero.min_unit=0", "precision=bf16", *LLAMA),
    ("zero=stage2", "optimizer=schedule_free_adamw", "scheduler=constant"),
])  # fmt: skip
def test_the_weights_at_the_end_are_those_of_a_state_saved_there(tmp_path, words):
    run_ranks(_final, 2, tmp_path, words)
    for name in ("float32", "bfloat16"):
        folders = [tmp_path / name, tmp_path / f"{name} of state"]
        mine, theirs = (load_file(folder / "model.safetensors") for folder in folders)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
        assert (folders[0] / "config.json").read_text() == (folders[1] / "config.json").read_text()
        assert all(value.dtype == getattr(torch, name) for value in mine.values())


WORDS = (*LLAMA, "data.samples=40", "data.held_out=8", "train.steps=6", "train.log_every=1", "hydra.run.dir=run",
         "train.sample_tokens=0", "optimizer.lr=0.01", "launch.threads=1")  # fmt: skip


def test_a_run_leaves_its_weights_and_writes_them_again_when_it_goes_on(tmp_path):
    for steps in (6, 8):
        result = zerokit(*WORDS, f"train.steps={steps}", "state.every=4", "scheduler=constant", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["final"] == {"folder": "model", "step": steps, "dtype": "bf16"} and "model" in summary["files"]
        export(saved_states(tmp_path / "run" / "state")[0].path, tmp_path / f"{steps}", "bfloat16")
        mine, theirs = (
            load_file(folder / "model.safetensors") for folder in (tmp_path / "run/model", tmp_path / f"{steps}")
        )
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_weights_that_cannot_be_written_fail_the_run_or_warn(tmp_path):
    trainer, _ = open_trainer(tmp_path, "train.steps=1")
    (tmp_path / "file").write_text("")
    for word in ("fail", "continue"):
        cfg = config(f"state.on_error={word}")
        final = Final(Run(cfg, tmp_path / "file", 0, 1, {}, trainer))
        summary = {"status": "finished"}
        if word == "fail":
            with pytest.raises(StateError, match="The final weights cannot be written: .*Not a directory. state.final"):
                final.on_end(summary)
        else:
            final.on_end(summary)
        assert "final" not in summary


# -- the best --------------------------------------------------------------------------------------------------------


def followed(folder: Path, losses: list[float], *words: str, first: int = 0):
    """A saver that has been told of these evaluations, one after each step."""
    trainer, saver = open_trainer(folder, *words, "state.asynchronous=false", "train.steps=9")
    steps = trainer.fit()
    for loss in losses:
        step, _ = next(steps)
        saver.on_step(step, {"eval/loss": loss, "eval/perplexity": -loss})
    return saver


def steps(folder: Path) -> list[int]:
    return [saved.step for saved in saved_states(folder / "state")]


def test_the_best_state_is_kept_whatever_comes_after(tmp_path):
    saver = followed(tmp_path, [3.0, 1.0, 2.0, math.nan, 4.0], "state.best=eval/loss", "state.every=1", "state.keep=2")
    assert steps(tmp_path) == [5, 4, 2]
    summary = {"status": "finished"}
    saver.on_end(summary)
    assert summary["best"] == {"metric": "eval/loss", "value": 1.0, "step": 2, "state": "step-00000002"}
    again = followed(tmp_path, [1.5, 0.5], "state.best=eval/loss", "state.every=1", "state.keep=2")  # from step 5 on
    assert again.best["step"] == 7 and steps(tmp_path) == [7, 6, 5]


def test_the_best_alone_is_saved_and_a_larger_value_may_be_the_better_one(tmp_path):
    followed(tmp_path, [3.0, 1.0, 2.0], "state.best=eval/perplexity", "state.best_mode=max", "state.keep=1")
    assert steps(tmp_path) == [2, 1]


def test_a_metric_that_there_is_not_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="state.best: there is no metric 'eval/los'. Did you mean eval/loss?"):
        followed(tmp_path, [1.0], "state.best=eval/los")
