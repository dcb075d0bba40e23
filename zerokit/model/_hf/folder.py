"""Where a model lies: a folder, or a name on the Hub, which is fetched into the Hub's own cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zerokit.config.errors import ConfigError
from zerokit.model._hf.packages import load_package

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
FETCHED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""Files of a repository that are fetched: configurations, weights, tokenizers."""


def local_folder(path: str) -> Path:
    """The folder that `path` names; a name on the Hub is fetched, if it is not there yet.

    Raises:
        ConfigError: there is no such folder, or the Hub cannot be asked.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise ConfigError(f"model.path={path}: the folder has no {CONFIG}; expected a model of transformers.")
        return folder
    if folder.exists():
        raise ConfigError(f"model.path={path} is a file; give the folder that holds {CONFIG}.")
    return _fetched(path)


def _fetched(name: str) -> Path:
    hub = load_package("huggingface_hub", f"model.path={name}")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=FETCHED))
    except Exception as error:  # of the network, of the Hub, or of what is no name: of many packages
        raise ConfigError(
            f"model.path={name}: there is no such folder, and the Hub gives none ({_first_line(error)}). On a host "
            f"that reaches the Hub: hf download {name} --local-dir DIR; then model.path=DIR."
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model.

    Raises:
        ConfigError: there are none, or one that the index names is missing.
    """
    if (folder / INDEX).is_file():
        names = sorted(set(_json(folder / INDEX)["weight_map"].values()))
    elif (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    else:
        names = sorted(file.name for file in folder.glob("*.safetensors") if not file.name.startswith("adapter_"))
    if not names:
        other = next((file.name for file in folder.glob("*.bin")), None)
        has = "no safetensors" if other is None else f"no safetensors but {other}, which is not read"
        raise ConfigError(
            f"model.path={folder}: the folder has {has}. Save it again by transformers' save_pretrained, or take "
            "model.init=random."
        )
    if lost := [name for name in names if not (folder / name).is_file()]:
        raise ConfigError(f"model.path={folder}: {lost[0]}, which {INDEX} names, is missing.")
    return [folder / name for name in names]


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}.") from error
