"""`zerokit --help` and `zerokit help [GROUP | GROUP=NAME]`: what can be chosen and set."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Any, get_type_hints

from zerokit.config import registry
from zerokit.config.docs import option_docs
from zerokit.config.errors import ConfigError, suggestion
from zerokit.config.parse import defaults, describe, spell
from zerokit.config.paths import CONF, choices
from zerokit.config.schema import SECTIONS

WIDTH = 79

GROUPS = {
    "zero": "how the training's state is divided among the processes",
    "precision": "number formats of weights, gradients and communication",
    "optimizer": "how gradients change the weights",
    "scheduler": "learning rate over the steps",
    "checkpointing": "activations kept or computed again in the backward pass",
    "model": "what is trained",
    "data": "what it is trained on",
    "tracker": "where metrics are shown, besides metrics.jsonl and report.html",
    "launch": "worker processes on this host",
    "experiment": "overlays: a whole experiment under one name",
    "debug": "overlays: quick runs to look for mistakes",
}

USAGE = """\
zerokit trains PyTorch models with the Zero Redundancy Optimizer (ZeRO).

Usage
  zerokit [GROUP=NAME ...] [KEY=VALUE ...] [-m]    train
  zerokit help GROUP                               the choices of a group
  zerokit help GROUP=NAME                          every option of a choice
  zerokit help train                               options of the loop; also
                                                   batch, state, run, sweep
  zerokit estimate [KEY=VALUE ...]                 memory and speed, not run
  zerokit report FOLDER                            compare a sweep's cells,
                                                   or show a run again
  zerokit state FOLDER [--verify]                  a run's saved states, and
                                                   whether they are sound
  zerokit export FOLDER [TO]                       its newest weights, as
                                                   safetensors and config.json
  zerokit convert ds_config.json                   a DeepSpeed file in our words
  zerokit doctor [--quick] [FOLDER]                what this machine has, and
                                                   what would go wrong
  zerokit dashboard PROJECT [--dry-run]            a W&B workspace for its runs
  zerokit schema [GROUP | --write FOLDER]          JSON Schema, for editors
  zerokit completion bash                          completion in the shell
  `python -m zerokit` is the same command.
"""

EXAMPLES = """\
Examples
  zerokit                                          the main job
  zerokit zero=stage3 precision=bf16 train.steps=100
  zerokit optimizer=sgd optimizer.lr=0.1 batch.global=32
  zerokit launch.nproc=4 launch.device=cpu tracker=none
  zerokit -m zero=stage0,stage1,stage2,stage3      one run each
  zerokit debug=tiny                               ten steps, in seconds
  torchrun --nproc_per_node 8 -m zerokit zero=stage3
  zerokit --config-path RUN_FOLDER --config-name config    repeat a run

Flags
  --plot-schedule      draw the learning rate over the run, in the terminal and
                       as schedule.svg, and stop

Flags of Hydra
  -m, --multirun       sweep: run every combination of the values A,B,...
  --cfg job            show the composed configuration and stop
  --info defaults      show where it comes from (or: config, searchpath, all)
  --config-dir DIR     a folder with your own YAML files for the groups
  hydra.run.dir=DIR    output folder (outputs/DATE/TIME by default)
"""


def main(words: list[str]) -> int:
    """Print the help on what `words` name, or on everything.

    Raises:
        ConfigError: if there is no such group, choice or section.
    """
    if len(words) > 1:
        raise ConfigError("Give one group, choice or section: zerokit help [GROUP | GROUP=NAME].")
    section, _, name = words[0].partition("=") if words else ("", "", "")
    if not section:
        print(_overview())
    elif name:
        print(_choice(section, name))
    elif section in GROUPS:
        print(_group(section))
    elif section in SECTIONS:
        print(_section(section))
    else:
        known = dict.fromkeys((*GROUPS, *SECTIONS))
        raise ConfigError(f"There is no group '{section}'.{suggestion(section, known)} Groups: {', '.join(known)}.")
    return 0


def _overview() -> str:
    lines = [USAGE, "Groups (* is the default)"]
    chosen = default_choices()
    for group, meaning in GROUPS.items():
        names = [f"{name}*" if name == chosen.get(group) else name for name in all_choices(group)]
        lines += [f"  {group:<14} {meaning}", *_wrapped(" ".join(names), 17)]
    lines += ["", "Options used most (zerokit help train shows all)"]
    lines += [f"  {line}" for line in _most_used()]
    return "\n".join([*lines, "", EXAMPLES.rstrip()])


def _most_used() -> list[str]:
    keys = ("train.steps", "train.seed", "train.clip_norm", "batch.global", "batch.micro", "launch.nproc", "run.group")
    lines = []
    for key in keys:
        section, _, option = key.partition(".")
        docs = option_docs(SECTIONS[section])
        meaning = docs.get(option) or docs[f"{option}_"]
        lines.append(f"{key:<16} {textwrap.shorten(meaning, WIDTH - 19, placeholder=' ...')}")
    return lines


def _group(group: str) -> str:
    chosen = default_choices().get(group)
    lines = [f"{group}: {GROUPS[group]}", ""]
    for name in all_choices(group):
        comment = _comments(CONF / group / f"{name}.yaml")
        mark = " (default)" if name == chosen else ""
        lines += [f"  {group}={name}{mark}", *_wrapped(comment[0] if comment else "", 6)]
    return "\n".join([*lines, "", f"Every option of a choice: zerokit help {group}={chosen or 'NAME'}"])


def _choice(group: str, name: str) -> str:
    if group not in GROUPS:
        raise ConfigError(f"There is no group '{group}'.{suggestion(group, GROUPS)} Groups: {', '.join(GROUPS)}.")
    if name not in all_choices(group):
        names = all_choices(group)
        hint = suggestion(name, names, f"{group}=")
        raise ConfigError(f"{group}={name}: there is no such {group}.{hint} Choices: {', '.join(names)}.")
    file = CONF / group / f"{name}.yaml"
    if group in ("experiment", "debug"):
        return file.read_text().rstrip()
    kind, values = options_of(group, name)
    return "\n".join([f"{group}={name}", *_comments(file), "", *_options(group, kind, values)])


def options_of(group: str, name: str) -> tuple[type, dict[str, Any]]:
    """Return the dataclass of a choice's options and the values that its YAML file gives."""
    file = CONF / group / f"{name}.yaml"
    values = (_load(file) or {}) if file.exists() else {"name": name}
    return SECTIONS[group] if group in SECTIONS else registry.options_type(group, values.pop("name")), values


def _section(section: str) -> str:
    values = _load(CONF / "config.yaml").get(section) or {}
    return "\n".join([f"{section}: {SECTIONS[section].__doc__}", "", *_options(section, SECTIONS[section], values)])


def _options(section: str, kind: type, values: dict[str, Any]) -> list[str]:
    """Return each option with its value, its type and its meaning."""
    docs, hints = option_docs(kind), get_type_hints(kind)
    lines = []
    for field, (key, default) in zip(dataclasses.fields(kind), defaults(kind).items(), strict=True):
        lines.append(f"  {section}.{key}={spell(values.get(key, default))}")
        lines += _wrapped(f"{docs.get(field.name, '')} ({describe(hints[field.name])})".strip(), 6)
    return lines or ["  no options"]


def all_choices(group: str) -> list[str]:
    """Return the YAML files of a group and the components that were registered outside zerokit."""
    added = registry.added(group) if group in registry.GROUPS else []
    return [*choices(group), *(name for name in added if name not in choices(group))]


def default_choices() -> dict[str, str]:
    """Return the choice of each group in config.yaml."""
    entries = [entry for entry in _load(CONF / "config.yaml")["defaults"] if isinstance(entry, dict)]
    return {group: name for entry in entries for group, name in entry.items()}


def _load(file: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(file))


def _comments(file: Path) -> list[str]:
    """Return the comment lines at the top of a YAML file, without those for Hydra."""
    comments = []
    for line in file.read_text().splitlines() if file.exists() else []:
        if not line.startswith("#"):
            break
        if not line.startswith("# @"):
            comments.append(line.removeprefix("#").removeprefix(" "))
    return comments


def _wrapped(text: str, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(text, WIDTH, initial_indent=space, subsequent_indent=space, break_on_hyphens=False)
