"""DeepSpeed's programming interface on zerokit's engine: `import zerokit.compat.deepspeed as deepspeed`.

Written from DeepSpeed 0.19's documentation. Its JSON is translated by `table`; the engine is zerokit's at every stage.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.19.0"
"""The version of the interface."""
__version_major__, __version_minor__, __version_patch__ = 0, 19, 0
__git_hash__, __git_branch__ = None, None

_HOME = {
    "initialize": "start",
    "add_config_arguments": "start",
    "init_distributed": "comm",
    "DeepSpeedEngine": "engine",
    "DeepSpeedConfigError": "start",
    "DeepSpeedConfig": "runtime.config",
    "PipelineModule": "pipe",
    "DeepSpeedOptimizer": "optimizer",
    "DeepSpeedDataLoader": "dataloader",
    "log_dist": "log",
    "logger": "log",
}
_MODULES = ("accelerator", "checkpoint", "checkpointing", "comm", "moe", "ops", "pipe", "runtime", "utils", "zero")

__all__ = [*_HOME, *_MODULES, "dist"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "dist":
        return importlib.import_module(f"{__name__}.comm")
    raise AttributeError(f"zerokit.compat.deepspeed has no '{name}'; docs/deepspeed.md lists what there is.")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
