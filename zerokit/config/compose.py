"""From command-line words to checked configurations: Hydra composes, the schema decides."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from zerokit.config import choice, environment, foreign, hydra_private, identity, registry
from zerokit.config.checks import check
from zerokit.config.errors import ConfigError
from zerokit.config.parse import defaults, unknown_key
from zerokit.config.paths import CONF
from zerokit.config.schema import SECTIONS, UNRESOLVED, Config
from zerokit.config.translate import translate, uncopied
from zerokit.config.usual import instead

OVERLAYS = ("experiment", "debug")
FOLDER_GROUPS = (*registry.GROUPS, *registry.LISTS, "zero", "launch", *OVERLAYS)
HYDRA_PLUGINS = ("hydra_plugins.", "optuna.samplers.")
OVERRIDE = re.compile(r"(\+\+|\+|~)?([^=\s]+)=(.*)", re.DOTALL)


class ZerokitSearchPath(SearchPathPlugin):
    """Lets a primary config in another folder (`--config-path`) use the groups of zerokit."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append `conf` to Hydra's search path."""
        search_path.append("zerokit", f"file://{CONF}")


def prepare(args: Namespace) -> None:
    """Make Hydra ready for parsed arguments: absolute folders, our groups, normalised overrides (in place).

    Raises:
        ConfigError: if an override names a top-level key or group that does not exist.
    """
    if args.config_path is not None and not args.config_path.startswith("pkg://"):
        args.config_path = os.path.abspath(args.config_path)
    if args.config_dir is not None:
        args.config_dir = os.path.abspath(args.config_dir)
        if not os.path.isdir(args.config_dir):
            raise ConfigError(f"--config-dir: there is no folder {args.config_dir}.")
    if ZerokitSearchPath not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(ZerokitSearchPath)
    folders = [Path(folder) for folder in (CONF, args.config_dir, args.config_path) if folder]
    _store_registered(folders)
    if args.shell_completion:  # its words are install=bash and the like
        return
    args.overrides = [*_hydra_defaults(args), *(_normalise(word, folders) for word in args.overrides)]
    places = [place for place in (args.config_dir, args.config_path, args.config_name) if place]
    identity.register_resolvers(identity.sweep_name([*places, *args.overrides]), to_config)


def compose(args: Namespace) -> list[Config]:
    """Return the checked configuration of every job that the prepared arguments ask for, one if it is no multirun.

    Raises:
        ConfigError: if any of them cannot be run.
    """
    return [_sound(job) for job in jobs(args)]


def jobs(args: Namespace) -> list[Config | ConfigError]:
    """Return for every job its checked configuration, or why its words cannot be run together.

    Raises:
        ConfigError: if none can be run, or one names a choice that does not exist.
    """
    with _readable(args), translated():
        setup_globals()
        loader = hydra_private.config_loader(args.config_path or CONF, args.config_dir)
        name = args.config_name or "config"
        if not args.multirun:
            single = loader.load_configuration(name, args.overrides, RunMode.RUN, validate_sweep_overrides=False)
            _check_hydra(args, single)
            if single.hydra.mode is not RunMode.MULTIRUN:
                return [_sound(_checked(loader.load_configuration(name, args.overrides, RunMode.RUN)))]
        master = loader.load_configuration(name, args.overrides, RunMode.MULTIRUN)
        _check_hydra(args, master)
        swept = _sweep(master, args.overrides)
        made = [_checked(loader.load_configuration(name, words, RunMode.RUN)) for words in swept]
        # Only zerokit's own launcher goes on after a job that fails.
        lenient = master.hydra.launcher._target_.endswith(".ZerokitLauncher")
        return made if lenient and any(isinstance(job, Config) for job in made) else [_sound(job) for job in made]


def check_hydra(args: Namespace) -> None:
    """Refuse what files in a folder of the user's would have Hydra do, where no job is composed.

    Raises:
        ConfigError: naming the key.
    """
    with _readable(args), translated():
        loader = hydra_private.config_loader(args.config_path or CONF, args.config_dir)
        mode = RunMode.MULTIRUN if args.multirun else RunMode.RUN
        name = args.config_name or "config"
        _check_hydra(args, loader.load_configuration(name, args.overrides, mode, validate_sweep_overrides=False))


def _check_hydra(args: Namespace, composed: DictConfig) -> None:
    if not (args.config_path or args.config_dir or args.config_name):
        return
    _refuse_targets(OmegaConf.to_container(composed.hydra), "hydra")
    own = hydra_private.config_loader(CONF)
    foreign.check_composed(
        composed,
        args.overrides,
        lambda words: own.load_configuration("config", words, RunMode.RUN, validate_sweep_overrides=False),
    )


def to_config(composed: DictConfig) -> Config:
    """Return Hydra's composed config as a checked `Config`.

    Raises:
        ConfigError: if it does not fit the schema or its groups do not fit each other.
    """
    with translated():
        own = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
        raw = OmegaConf.to_container(own)
        _refuse_targets(raw, "")
        values = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
        unresolved = dict(environment.unresolved(own, values)) if "oc.env" in str(raw) else {}
        config = Config.from_dict({**values, UNRESOLVED: unresolved} if unresolved else values)
        check(config)
        return config


@contextmanager
def translated() -> Iterator[None]:
    """Turn what Hydra, OmegaConf and YAML raise inside into a `ConfigError`."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise translate(error) from error
    except KeyError as error:
        if (name := uncopied(error)) is None:
            raise
        raise ConfigError(f"hydra.job.env_copy: the environment has no variable {name}.") from error


@contextmanager
def _readable(args: Namespace) -> Iterator[None]:
    """Turn what reading YAML files raises into a `ConfigError`."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        folders = " or ".join(folder for folder in (args.config_dir, args.config_path) if folder) or CONF
        raise ConfigError(f"A YAML file in {folders} cannot be read: {error}.") from error


def _sound(job: Config | ConfigError) -> Config:
    if isinstance(job, ConfigError):
        raise job
    return job


def _checked(composed: DictConfig) -> Config | ConfigError:
    """Check a config before Hydra runs it: what Hydra fills in for each job gets a stand-in, for interpolations."""
    _refuse_targets(OmegaConf.to_container(composed.hydra), "hydra")
    with open_dict(composed.hydra):
        composed.hydra.job.num = 0
        composed.hydra.job.id = "0"
        composed.hydra.runtime.output_dir = os.getcwd()
    HydraConfig.instance().set_config(composed)
    try:
        return to_config(composed)
    except ConfigError as error:
        return error
    finally:
        HydraConfig.instance().cfg = None


def _store_registered(folders: list[Path]) -> None:
    """Give each registered component that has no YAML file its defaults as one, so that `group=name` finds it."""
    store = ConfigStore.instance().store
    for group in (*registry.GROUPS, *registry.LISTS):
        for name in registry.names(group):
            if not any((folder / group / f"{name}.yaml").exists() for folder in folders):
                values = defaults(registry.options_type(group, name))
                if group in registry.LISTS:
                    store(name, values, group=group, package=f"{group}.{name}")
                else:
                    store(name, {"name": name, **values}, group=group)


def _normalise(word: str, folders: list[Path]) -> str:
    """Let every option of the schema be set without Hydra's `+`, and a group be chosen with one."""
    match = OVERRIDE.fullmatch(word)
    if match is None or match[1] == "~":
        return word
    _, key, value = match.groups()
    first = re.split(r"[./@:]", key)[0]
    known = Config.section_names()
    if first == "hydra":
        return word
    if key in registry.LISTS and value == "null":
        raise ConfigError(f"{key}=null: for none of them write {key}=[].")
    if key in FOLDER_GROUPS and not value.startswith("{"):
        if key not in registry.LISTS:
            value = choice.normalised(key, value, _choices(key, folders), optional=key in OVERLAYS)
        return f"{key}={value}"
    if first in known and (key == first or key[len(first)] == "."):
        return f"++{key}={value}"
    if any((folder / first).is_dir() for folder in folders):
        return word
    if write := instead(key, value) or _leaf(key, value):
        raise ConfigError(f"{key}={value}: there is no such key. Write {write}.")
    raise unknown_key("", first, [*known, *OVERLAYS])


def _choices(group: str, folders: list[Path]) -> list[str]:
    """The names that a group has: in the folders, and registered without a file."""
    files = {file.stem for folder in folders for file in (folder / group).glob("*.yaml")}
    return sorted(files | {*(registry.names(group) if group in registry.GROUPS else ())})


def _leaf(key: str, value: str) -> str:
    """Where there is an option of this name, in words; empty if there is none, or the key names a section."""
    if "." in key:
        return ""
    kinds = [(section, kind) for section, kind in SECTIONS.items()]
    kinds += [
        (group, registry.options_type(group, name)) for group in registry.GROUPS for name in registry.names(group)
    ]
    sections = dict.fromkeys(section for section, kind in kinds if key.lower() in defaults(kind))
    return " or ".join(f"{section}.{key.lower()}={value}" for section in sections)


def _hydra_defaults(args: Namespace) -> list[str]:
    """Return zerokit's settings of Hydra as overrides, for a primary config that has none (such as a saved one)."""
    if args.config_path is None and args.config_name is None:
        return []
    primary = Path(args.config_path or CONF) / f"{(args.config_name or 'config').removesuffix('.yaml')}.yaml"
    if Path(args.config_path or CONF).is_dir() and not primary.exists():  # else that of zerokit would be taken
        raise ConfigError(
            f"There is no config '{primary.name}' in {primary.parent}; see --config-path and --config-name."
        )
    with _readable(args), translated():
        if not primary.exists():
            return []
        foreign.check_primary(primary)
        own = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
        given = OmegaConf.to_container(OmegaConf.load(primary))
    given = given if isinstance(given, dict) else {}
    words = _hydra_choices(own) | {
        key: "null" if value is None else value for key, value in _leaves("hydra", own["hydra"])
    }
    set_there = {*_hydra_choices(given), *(key for key, _ in _leaves("hydra", given.get("hydra")))}
    return [f"{key}={value}" for key, value in words.items() if key not in set_there]


def _hydra_choices(values: dict[str, Any]) -> dict[str, Any]:
    """The choices of Hydra's groups in the defaults list of a config, by group."""
    entries = values.get("defaults")
    return {
        str(key).removeprefix("override ").removeprefix("/"): value
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict)
        for key, value in entry.items()
        if str(key).removeprefix("override ").removeprefix("/").startswith("hydra/")
    }


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}", item)
    else:
        yield path, value


def _sweep(master: DictConfig, words: list[str]) -> list[list[str]]:
    """Return the overrides of every job of a sweep; of another sweeper than Hydra's own, only what all jobs share."""
    parser = OverridesParser.create()
    own = [f"{key}={value}" for key, value in (master.hydra.sweeper.get("params") or {}).items()]
    overrides = parser.parse_overrides([*own, *words])
    fixed = [o.input_line for o in overrides if o.is_hydra_override()]
    task = [o for o in overrides if not o.is_hydra_override()]
    for override in overrides:
        if override.is_discrete_sweep() and not any(True for _ in override.sweep_string_iterator()):
            raise ConfigError(
                f"{override.input_line.lstrip('+')}: expected at least one value to sweep over; there is none."
            )
    if not master.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return [fixed + [o.input_line for o in task if not o.is_sweep_override()]]
    return [fixed + job for job in hydra_private.jobs(task)]


def _refuse_targets(values: Any, path: str) -> None:
    if isinstance(values, list):
        values = dict(enumerate(values))
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        known = value in hydra_private.TARGETS or str(value).startswith(HYDRA_PLUGINS)
        allowed = known and path.partition(".")[0] == "hydra"
        if key == "_target_" and not allowed:
            raise unknown_key(path, key, [])
        _refuse_targets(value, f"{path}.{key}" if path else str(key))
