"""zerokit: train PyTorch models with ZeRO stages 0 to 3, composed by Hydra.

`zerokit.register` adds a component, such as a callback made from `zerokit.Callback`, `zerokit.main` runs the command
line, `zerokit.initialize` turns a model into a ZeRO engine for a training loop of your own, `zerokit.hf` loads and
saves models of `transformers` there, and `zerokit.load` gives the model that a run has left.
Importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from zerokit.config.registry import register

__version__ = "0.2.0"
__all__ = ["Callback", "__version__", "hf", "initialize", "load", "main", "register"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line (by default that of this process) and exit with its status.

    A script that registers components of its own ends with `zerokit.main()`.

    Raises:
        SystemExit: with 1 after a failed training, 2 after a configuration error, 130 after Ctrl-C.
    """
    from zerokit.cli import main as cli_main

    cli_main(arguments)


def __getattr__(name: str) -> Any:
    if name == "initialize":
        from zerokit.train.initialize import initialize

        return initialize
    if name == "hf":
        return import_module("zerokit.hf")
    if name == "load":
        return import_module("zerokit.hf").module
    if name == "Callback":
        from zerokit.callbacks import Callback

        return Callback
    raise AttributeError(f"module 'zerokit' has no attribute {name!r}")
