"""The packages of the extra `hf`, imported where they are used."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

from zerokit.config.errors import ConfigError


def load_package(name: str, needed_by: str) -> ModuleType:
    """The package, which is quiet.

    Raises:
        ConfigError: it is not installed, or cannot be imported; names the extra.
    """
    warnings.filterwarnings("ignore", module=name)
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        why = "is not installed" if getattr(error, "name", None) == name else f"cannot be imported: {error}"
        raise ConfigError(f"{needed_by} needs the package {name}, which {why}. pip install 'zerokit[hf]'") from error
    if name == "transformers":
        package.logging.set_verbosity_error()
        package.logging.disable_progress_bar()
    return package
