"""Names that follow from what a run computes, so that the same command finds its runs again."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from zerokit.config import host
from zerokit.config.environment import shown

VIEWS = ("sweep", "run", "tracker", "state", "estimate", "profile")
"""Sections that change what is kept or shown of a run, not what it computes."""
OWN_WORDS = re.compile(
    r"(\+\+|\+|~)?(sweep\.|tracker[.=]|run\.|estimate\.|hydra\.sweep\.|hydra\.run\.|hydra[./]launcher)"
)
LENGTH = 8


def digest(values: dict[str, Any]) -> str:
    """Return eight hexadecimal digits that differ for configurations that compute different things.

    Args:
        values: a whole configuration as `Config.to_dict` gives it.
    """
    kept = {section: value for section, value in shown(values).items() if section not in VIEWS and value}
    return _hash(json.dumps(kept, sort_keys=True, default=str))


def facets(values: dict[str, Any]) -> list[str]:
    """Return the choices by which people tell runs apart: stage (or `auto`), precision, checkpointing, model."""
    zero = values.get("zero") or {}
    names = [str((values.get(group) or {}).get("name")) for group in ("precision", "checkpointing", "model")]
    return ["auto" if zero.get("auto") else f"stage{zero.get('stage')}", *names]


def cell_name(values: dict[str, Any]) -> str:
    """Return the folder of a cell of a sweep, such as `stage2-fp32-gpt_nano-1a2b3c4d`."""
    words = [word for word in facets(values) if word != "none"]
    return "-".join(re.sub(r"[^\w.]+", "_", word) for word in [*words, digest(values)])


def sweep_name(words: Sequence[str]) -> str:
    """Return the folder of the sweep that the command-line words ask for, such as `zero-precision-1a2b3c4d`.

    It does not depend on the order of the words, nor on those that say how the cells are run.
    """
    kept = sorted(word for word in words if not OWN_WORDS.match(word) and word not in ("-m", "--multirun"))
    experiments = [word.partition("=")[2] for word in kept if word.startswith("experiment=")]
    swept = [word.partition("=")[0].lstrip("+").rpartition(".")[2] for word in words if _is_swept(word)]
    name = "-".join(re.sub(r"[^\w]+", "_", part) for part in experiments + swept) or "sweep"
    return f"{name[:60]}-{_hash(shlex.join(kept))}"


def register_resolvers(sweep: str, to_config: Callable[[DictConfig], Any] | None = None) -> None:
    """Let YAML files say `${zerokit.sweep:}` for the name of this sweep, `${zerokit.cell:}` for that of the cell,
    `${zerokit.ranks:}` for the numbers of processes that this host can run: `1,2,4`, `${zerokit.threads:}` for the
    threads that each of the most of them gets, and
    `${zerokit.on_cpu:${launch.device},VALUE}` for a value that only runs on the CPU get.

    to_config: what makes a checked `Config` of a composed one (`compose.to_config`); without it no cell has a name."""
    OmegaConf.register_new_resolver("zerokit.sweep", lambda: sweep, replace=True)
    if to_config is not None:
        OmegaConf.register_new_resolver(
            "zerokit.cell", lambda *, _root_: cell_name(to_config(_root_).to_dict()), replace=True
        )
    OmegaConf.register_new_resolver(
        "zerokit.ranks", lambda: ",".join(map(str, host.ranks(host.devices()))), replace=True
    )
    OmegaConf.register_new_resolver("zerokit.threads", lambda: max(1, host.cores() // host.devices()), replace=True)
    OmegaConf.register_new_resolver("zerokit.on_cpu", _on_cpu, replace=True)


def _on_cpu(device: str, value: Any) -> Any:
    return value if device == "cpu" or not host.visible_gpus() else None


def _is_swept(word: str) -> bool:
    key, _, value = word.partition("=")
    return not key.startswith("hydra") and bool(re.search(r",(?![^\[({]*[\])}])|^(range|interval|choice)\(", value))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]
