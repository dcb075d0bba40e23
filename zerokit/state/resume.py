"""Which state a run goes on from, and whether it is a state of that run. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from zerokit.config.errors import ConfigError
from zerokit.config.parse import spell
from zerokit.state.errors import StateError
from zerokit.state.folder import FOLDER, given_states, saved_states
from zerokit.state.manifest import read_manifest

SECTIONS = ("model", "adapter", "data", "optimizer", "scheduler")
KEYS = ("train.seed", "train.freeze", "train.clip_norm", "train.loss_mean", "batch.global")
"""What a training's weights depend on beside the sections; everything else may change from run to run."""
SCHEDULE = "scheduler.total_steps"
"""Steps that the schedule depends on: those of the run, unless it is the same for any number (`fixed_length`)."""
SHAPELESS = tuple(
    f"model.{name}"
    for name in ("dropout", "init_std", "loss_chunk", "norm_eps", "rope_theta", "rope_factor", "rope_low", "rope_high")
)
"""Options of models that change no shape of a weight: weights of other shapes cannot be taken from a state."""


def started_again() -> bool:
    """Whether torchrun has started the workers again, or Slurm the job."""
    return any(os.environ.get(name, "0") != "0" for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def candidates(run_dir: Path, resume: str, restarted: bool = False) -> list[Path]:
    """The states to try, newest first; none means from the beginning.

    resume: `auto`, `never`, or the path of a state, of a folder of states or of a run. States in the run's own folder
    go before a path outside it, so that a command that is started again goes on. restarted: the run has been started
    again by itself (`started_again`), so its own states count in any case.

    Raises:
        ConfigError: `never` or an older state although the run's folder holds (newer) states; no state at a path.
    """
    own = saved_states(Path(run_dir) / FOLDER)
    if resume == "auto" or restarted and own:
        return [saved.path for saved in own]
    if resume == "never":
        if own:
            raise ConfigError(
                f"state.resume=never: {own[0].path.parent} holds states of a run up to step {own[0].step}, and two "
                "runs must not mix. Choose another folder with hydra.run.dir=DIR, or remove them."
            )
        return []
    given = Path(resume)
    found = given_states(resume, "state.resume=")
    if given.resolve().is_relative_to(Path(run_dir).resolve()):
        newer = [saved for saved in own if saved.path.resolve() not in {path.resolve() for path in found}]
        newer = [saved for saved in newer if saved.step > max(_step(path) for path in found)]
        if newer:
            raise ConfigError(
                f"state.resume={resume}: the folder holds a newer state, of step {newer[0].step}, which is never "
                "overwritten. Go back to the older one in another folder (hydra.run.dir=DIR), or remove the newer."
            )
        return found
    return [saved.path for saved in own] or found


def newest_step(root: Path) -> int | None:
    """The step of the newest state in a folder of states, None if there is none, or that one is damaged."""
    for saved in saved_states(root)[:1]:
        with suppress(StateError, OSError):
            read_manifest(saved.path)
            return saved.step
    return None


def _step(path: Path) -> int:
    return next((saved.step for saved in saved_states(path.parent) if saved.path == path), 0)


def identity(config: Mapping[str, Any], **resolved: Any) -> dict[str, Any]:
    """What makes a training the one it is, by key: the part of its config that its weights depend on."""
    flat = {f"{section}.{key}": value for section in config for key, value in (config[section] or {}).items()}
    chosen = {key: value for key, value in flat.items() if key.split(".")[0] in SECTIONS or key in KEYS}
    return chosen | resolved


def allows(allowed: Sequence[str], key: str) -> bool:
    """Whether a key, or its section, is among those that may change."""
    return any(key == name or key.startswith(f"{name}.") for name in allowed)


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], allowed: Sequence[str] = ()) -> list[str]:
    """How the training of a state differs from this one, as lines `KEY: … in the state, … here`."""
    changed = [key for key in saved if key in now and saved[key] != now[key] and not allows(allowed, key)]
    names = {key.split(".")[0] for key in changed if key.endswith(".name")}
    shown = [key for key in changed if key.endswith(".name") or key.split(".")[0] not in names]
    if allowed and shown:  # what may change the shapes of weights is told beside them, since then nothing covers it
        shown += [key for key in saved if key in now and saved[key] != now[key] and key not in changed and _shapes(key)]
    return [f"{key}: {spell(saved[key])} in the state, {spell(now[key])} here" for key in shown]


def _shapes(key: str) -> bool:
    """Whether an option may change shapes of weights."""
    return key.startswith("model.") and key not in SHAPELESS


def refusal(path: Path, lines: Sequence[str]) -> str:
    """The error for a state of another training."""
    keys = [line.partition(":")[0] for line in lines]
    fields = "".join(f"\n  {line}" for line in lines)
    other = "start in another folder (hydra.run.dir=DIR)"
    if schedule := [line for line in lines if line.startswith(f"{SCHEDULE}: ")]:
        length = schedule[0].removeprefix(f"{SCHEDULE}: ").partition(" ")[0]
        other = f"keep the schedule of the learning rate with {SCHEDULE}={length}, {other}"
    if any(map(_shapes, keys)):
        ways = f"Put these back, or {other}."
    else:
        names = ",".join(key.removesuffix(".name") for key in keys)
        ways = f"Put these back, {other}, or go on with\n'state.allow_changed=[{names}]'."
    return f"{path} is a state of another training:{fields}\n{ways}"


def check_config(config: Mapping[str, Any], run_dir: Path, **resolved: Any) -> None:
    """Refuse, before a worker starts, to go on from a state of another training, or of a step after the last. resolved:
    as `identity` takes it.

    Raises:
        ConfigError: with every field that differs, or both steps.
    """
    options = config["state"]
    now = identity(config, **resolved)
    for key in ("batch.global", "train.loss_mean"):
        if now.get(key) is None:  # only the workers know it then
            now.pop(key, None)
    for path in candidates(run_dir, options["resume"], started_again()):
        try:
            facts = read_manifest(path).facts
        except (StateError, OSError):
            continue  # the workers say what is wrong with it, and take the one before
        step, last = facts.get("step", 0), config["train"]["steps"]
        if step > last:
            raise ConfigError(
                f"train.steps={last}: {path} is a state after step {step}, and steps are not undone. Raise "
                "train.steps, or start anew in another folder (hydra.run.dir=DIR) with state.resume=never."
            )
        if lines := differences(facts.get("training", {}), now, options["allow_changed"]):
            raise ConfigError(refusal(path, lines))
        return
