"""What a configuration in somebody's folder may tell Hydra: where runs go, and which sweeper and launcher, by name.

Hydra's own section can set environment variables, make files of logs, import packages and run commands. So whatever
stands there is compared with what Hydra has without those folders; on the command line all of it is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from zerokit.config.errors import ConfigError

TAKEN = ("run", "sweep", "mode", "sweeper.params")
"""Keys below `hydra` that a file may set."""
OF_THE_JOB = ("overrides", "runtime", "job.num", "job.id", "job.override_dirname", "job.config_name", "searchpath")
"""Keys that follow from the command line; `searchpath` is looked at before Hydra reads it."""
GROUPS = ("hydra/launcher", "hydra/sweeper")
SWEEPER_OF_GROWTH = "hydra_plugins.zerokit_growth.GrowthSweeper"


def check_primary(path: Path) -> None:
    """Refuse a primary config whose search path would be followed before anything else is known of it.

    Raises:
        ConfigError: it names one.
    """
    loaded = OmegaConf.load(path)
    own = OmegaConf.to_container(loaded).get("hydra") if isinstance(loaded, DictConfig) else None
    if own is None:
        return
    if not isinstance(own, dict):
        raise ConfigError(f"{path}: hydra: expected keys with values, found {type(own).__name__}.")
    for key in own:
        if str(key).split(".")[0] not in {name.split(".")[0] for name in TAKEN}:
            raise _refusal(str(key))


def check_composed(composed: DictConfig, words: Sequence[str], compose: Callable[[list[str]], DictConfig]) -> None:
    """Refuse what files of a foreign folder have set of Hydra beyond `TAKEN`.

    Args:
        composed: the whole configuration.
        words: overrides of the command line.
        compose: what Hydra makes of overrides without the foreign folder.

    Raises:
        ConfigError: naming the key.
    """
    own = [word for word in words if word.lstrip("+~").startswith("hydra")]
    choices = composed.hydra.runtime.choices
    chosen = {group: choices.get(group) for group in GROUPS}
    named = [f"{group}={name}" for group, name in chosen.items() if name]
    trusted = compose([*named, *(word for word in own if word.partition("=")[0] not in GROUPS)])
    expected = dict(_leaves(OmegaConf.to_container(trusted.hydra)))
    for key, value in _leaves(OmegaConf.to_container(composed.hydra)):
        if not _taken(key, composed) and (key not in expected or expected[key] != value):
            raise _refusal(key)


def _taken(key: str, composed: DictConfig) -> bool:
    keys = (*TAKEN, *OF_THE_JOB)
    if composed.hydra.sweeper._target_ == SWEEPER_OF_GROWTH and key != "sweeper._target_":
        keys = (*keys, "sweeper")
    return any(key == name or key.startswith(f"{name}.") for name in keys)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _refusal(key: str) -> ConfigError:
    return ConfigError(
        f"hydra.{key}: a file may set {', '.join(f'hydra.{name}' for name in TAKEN)}, and hydra/launcher and "
        "hydra/sweeper to a name, since Hydra's other settings can run code. Remove it there; on the command line it "
        "is allowed."
    )
