"""Errors of Hydra, OmegaConf and YAML in zerokit's words: one short message that says what to do."""

from __future__ import annotations

import os
import re
from pathlib import Path
from traceback import walk_tb

import yaml
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from zerokit.config import registry
from zerokit.config.errors import ConfigError, suggestion

EXTRAS = {"optuna": "optuna", "submitit_slurm": "slurm", "submitit_local": "slurm"}
"""Plugins of Hydra by the extra that installs them."""


def translate(error: Exception) -> ConfigError:
    """Return the `ConfigError` that says what `error` means to the person at the command line."""
    if isinstance(error, MissingConfigException):
        return _missing_config(error)
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"Cannot read '{_plain(error.override)}': write KEY=VALUE, such as train.steps=100, "
            "and quote a value that holds spaces, commas or brackets: 'KEY=\"VALUE\"'."
        )
    if isinstance(error, yaml.YAMLError):
        return _malformed_yaml(error)
    if isinstance(error, OmegaConfBaseException):
        return _omegaconf(error)
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and isinstance(cause, (OmegaConfBaseException, yaml.YAMLError)):
        return translate(cause)
    return _other(str(error))


def uncopied(error: KeyError) -> str | None:
    """The variable that Hydra was to copy (`hydra.job.env_copy`) and that is not there; None if it is no such error."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    of_environment = type(os.environ).__getitem__.__code__.co_filename
    return str(error.args[0]) if files[-1] == of_environment and "hydra" in files[-2] else None


def _missing_config(error: MissingConfigException) -> ConfigError:
    missing = error.missing_cfg_file
    if missing is None:
        return _other(str(error))
    group, _, name = missing.removesuffix(".yaml").rpartition("/")
    if not group:
        return ConfigError(f"There is no config '{name}.yaml' in the folder; see --config-path and --config-name.")
    options = registry.names(group) if group in registry.LISTS else list(error.options or [])
    if not options:
        return ConfigError(f"There is no '{group}/{name}.yaml' in the config folders; see --config-dir.")
    hint = suggestion(name, options, f"{group}=")
    if name in EXTRAS:
        hint = f" Install it with: pip install 'zerokit[{EXTRAS[name]}]'."
    return ConfigError(
        f"{group}={name}: there is no such {group.removesuffix('s')}.{hint} Choices: {', '.join(options)}."
    )


def _malformed_yaml(error: yaml.YAMLError) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return ConfigError(f"Malformed YAML: {problem}.")
    return ConfigError(f"Malformed YAML in {mark.name}, line {mark.line + 1}, column {mark.column + 1}: {problem}.")


def _omegaconf(error: OmegaConfBaseException) -> ConfigError:
    key = error.full_key or "config"
    first = str(error).splitlines()[0]
    if isinstance(error, MissingMandatoryValue):
        return ConfigError(f"{key} has no value yet: set it with {key}=VALUE.")
    if isinstance(error, InterpolationResolutionError):
        return ConfigError(f"{key}: an interpolation cannot be resolved: {first}.")
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)) and key.startswith("hydra."):
        return ConfigError(f"Unknown key {key}: Hydra has no such setting; see --cfg hydra.")
    return ConfigError(f"{key}: {first.rstrip('.')}.")


def _other(message: str) -> ConfigError:
    if match := re.search(r"Ambiguous value for argument '(.+?)'", message):
        return ConfigError(f"{_plain(match[1])}: to run each value add -m; for a list write KEY=[A,B].")
    if match := re.search(r"Sweep parameters '(.+?)' requires --multirun", message):
        return ConfigError(f"{_plain(match[1])}: this is a sweep: add -m.")
    if match := re.search(r"Could not override '(.+?)'\.\s*No match in the defaults list", message):
        return ConfigError(
            f"{match[1]}=...: this config is composed already and has no choice of {match[1]} to replace. "
            f"Set its options, such as {match[1]}.KEY=VALUE."
        )
    if match := re.search(r"Could not delete from config. '(.+?)' does not exist", message):
        return ConfigError(f"~{match[1]}: there is no such key to delete.")
    if match := re.search(r"Primary config directory not found.*?'(.+?)'", message, re.DOTALL):
        return ConfigError(f"--config-path: there is no folder {Path(match[1])}.")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return ConfigError(" ".join(lines[:2]) or "The configuration cannot be composed.")


def _plain(word: str) -> str:
    return word.lstrip("+")
