"""`zerokit help [COMMAND | GROUP | GROUP=NAME | SECTION]`: what can be chosen and set; without a word, an overview."""

from __future__ import annotations

import dataclasses
import importlib
import textwrap
from pathlib import Path
from typing import Any, get_type_hints

from zerokit.cli.overlay import comment
from zerokit.cli.overlay import page as overlay_page
from zerokit.cli.page import page
from zerokit.config import registry
from zerokit.config.docs import option_docs
from zerokit.config.errors import ConfigError, suggestion
from zerokit.config.parse import defaults, describe, spell
from zerokit.config.paths import CONF, choices
from zerokit.config.schema import SECTIONS
from zerokit.config.terminal import WIDTH, wrapped

GROUPS = {
    "zero": "how the training's state is divided among the processes",
    "precision": "number formats of weights, gradients and communication",
    "optimizer": "how gradients change the weights",
    "scheduler": "learning rate over the steps",
    "checkpointing": "activations kept or computed again in the backward pass",
    "model": "what is trained",
    "adapter": "small trained parts in a model that stays as it is",
    "data": "what it is trained on",
    "tracker": "where metrics are shown, besides metrics.jsonl and report.html",
    "callbacks": "what is called while it trains; a list: callbacks=[NAME]",
    "launch": "worker processes on this host",
    "experiment": "overlays: a whole experiment under one name",
    "debug": "overlays: quick runs to look for mistakes",
}
OVERLAYS = ("experiment", "debug")

USAGE = """\
zerokit trains PyTorch models with the Zero Redundancy Optimizer (ZeRO).

Usage
  zerokit [GROUP=NAME ...] [KEY=VALUE ...] [-m]    train
  zerokit help GROUP                               the choices of a group
  zerokit help GROUP=NAME                          every option of a choice
  zerokit help train                               options of the loop; also
                                                   batch, state, run, sweep
  zerokit COMMAND --help                           what a command takes
  zerokit estimate [KEY=VALUE ...]                 memory and speed, not run
  zerokit report FOLDER                            compare a sweep's cells,
                                                   or show a run again
  zerokit state FOLDER [--verify]                  a run's saved states, and
                                                   whether they are sound
  zerokit export FOLDER [TO]                       its newest weights, as
                                                   safetensors and config.json
  zerokit generate RUN --prompt TEXT               what its model writes on
  zerokit evaluate RUN [KEY=VALUE ...]             its weights on held-out data
  zerokit rerun RUN [KEY=VALUE ...]                the same again, or changed
  zerokit convert ds_config.json                   a DeepSpeed file in our words
  zerokit doctor [--quick] [FOLDER]                what this machine has, and
                                                   what would go wrong
  zerokit dashboard PROJECT [--dry-run]            a W&B workspace for its runs
  zerokit schema [GROUP | --write FOLDER]          JSON Schema, for editors
  zerokit completion bash|zsh|fish                 completion in the shell
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
    match words:
        case []:
            print(_overview())
        case [word] if "=" in word:
            group, _, name = word.partition("=")
            print(_choice(group, name))
        case [word]:
            print("\n\n".join(_pages(word)))
        case _:
            raise ConfigError("Give one word: zerokit help [COMMAND | GROUP | GROUP=NAME | SECTION].")
    return 0


def names() -> list[str]:
    """Return what there is a page of: groups, sections and commands."""
    from zerokit.cli import COMMANDS

    return list(dict.fromkeys((*GROUPS, *SECTIONS, *COMMANDS)))


def _pages(name: str) -> list[str]:
    """A word may be both a command and a section, such as `estimate`."""
    from zerokit.cli import COMMANDS

    pages = []
    if name in COMMANDS:
        module = importlib.import_module(COMMANDS[name].partition(":")[0])
        pages.append("\n".join(page(module.__doc__)))
    if name in GROUPS:
        pages.append(_group(name))
    elif name in SECTIONS:
        pages.append(_section(name))
    if not pages:
        hint = suggestion(name, names())
        raise ConfigError(f"There is no help on '{name}'.{hint} There is on: {', '.join(names())}.")
    return pages


def _overview() -> str:
    lines = [USAGE, "Groups (* is the default)"]
    chosen = default_choices()
    for group, meaning in GROUPS.items():
        names = [f"{name}*" if name == chosen.get(group) else name for name in all_choices(group)]
        lines += [f"  {group:<14} {meaning}", *wrapped(" ".join(names), 17)]
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
        lines.append(f"{key:<16} {textwrap.shorten(meaning, WIDTH - 20, placeholder=' ...')}")
    return lines


def _group(group: str) -> str:
    chosen = default_choices().get(group)
    lines = [f"{group}: {GROUPS[group]}", ""]
    for name in all_choices(group):
        mark = " (default)" if name == chosen else ""
        lines += [f"  {group}={name}{mark}", *wrapped(_meaning(group, name), 6)]
    more = "What one sets and how to run it" if group in OVERLAYS else "Every option of a choice"
    return "\n".join([*lines, "", f"{more}: zerokit help {group}={chosen or 'NAME'}"])


def _choice(group: str, name: str) -> str:
    if group not in GROUPS:
        raise ConfigError(f"There is no group '{group}'.{suggestion(group, GROUPS)} Groups: {', '.join(GROUPS)}.")
    if name not in all_choices(group):
        names = all_choices(group)
        hint = suggestion(name, names, f"{group}=")
        raise ConfigError(f"{group}={name}: there is no such {group}.{hint} Choices: {', '.join(names)}.")
    if group in OVERLAYS:
        return "\n".join(overlay_page(group, name))
    kind, values = options_of(group, name)
    section = f"{group}.{name}" if group in registry.LISTS else group
    return "\n".join([f"{group}={name}", *wrapped(_meaning(group, name)), "", *_options(section, kind, values)])


def options_of(group: str, name: str) -> tuple[type, dict[str, Any]]:
    """Return the dataclass of a choice's options and the values that its YAML file gives."""
    file = CONF / group / f"{name}.yaml"
    values = (_load(file) or {}) if file.exists() else {"name": name}
    return SECTIONS[group] if group in SECTIONS else registry.options_type(group, values.pop("name", name)), values


def _section(section: str) -> str:
    values = _load(CONF / "config.yaml").get(section) or {}
    meaning = f"{section}: {SECTIONS[section].__doc__}"
    return "\n".join([*wrapped(meaning), "", *_options(section, SECTIONS[section], values)])


def _options(section: str, kind: type, values: dict[str, Any]) -> list[str]:
    """Return each option with its value, its type and its meaning."""
    docs, hints = option_docs(kind), get_type_hints(kind)
    lines = []
    for field, (key, default) in zip(dataclasses.fields(kind), defaults(kind).items(), strict=True):
        lines.append(f"  {section}.{key}={spell(values.get(key, default))}")
        lines += wrapped(f"{docs.get(field.name, '')} ({describe(hints[field.name])})".strip(), 6)
    return lines or ["  no options"]


def all_choices(group: str) -> list[str]:
    """Return the YAML files of a group and the components that were registered outside zerokit."""
    added = registry.added(group) if group in (*registry.GROUPS, *registry.LISTS) else []
    return [*choices(group), *(name for name in added if name not in choices(group))]


def default_choices() -> dict[str, str]:
    """Return the choice of each group in config.yaml."""
    entries = [entry for entry in _load(CONF / "config.yaml")["defaults"] if isinstance(entry, dict)]
    return {group: name for entry in entries for group, name in entry.items()}


def _load(file: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(file))


def _meaning(group: str, name: str) -> str:
    file = CONF / group / f"{name}.yaml"
    return comment(file).meaning if file.exists() else ""
