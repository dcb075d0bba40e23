"""What runs first in every worker process."""

from __future__ import annotations

import importlib
import os
import signal
import time
from typing import Any

from zerokit.config.errors import ConfigError
from zerokit.fault import Ended, is_consequence
from zerokit.fault.signals import asking
from zerokit.launch.parent import end_with
from zerokit.launch.relay import let_through

CAUSE_FIRST_S = 2.0


def work(entry: str, config: dict[str, Any], run_dir: str, launcher: int) -> dict[str, Any]:
    """Call the entry `module:function` with the config and the output folder. launcher: its process."""
    # A forked worker inherits the launcher's handlers. Until it has its own, a signal ends it at once.
    numbers = asking(config["launch"]["save_signals"])
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    let_through(numbers)
    _leave_the_terminal()
    end_with(launcher, signal.SIGKILL)
    result = call(entry, config, run_dir)
    for number in numbers:  # all is done: the process ends anyway, and shall not count as interrupted
        signal.signal(number, signal.SIG_IGN)
    return result


def _leave_the_terminal() -> None:
    """Get Ctrl-C from the launcher alone, which passes it on: both together would count as two."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)


def call(entry: str, config: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """Call the entry; hold back an error that only says that another rank is gone, so that the cause is seen first."""
    module, _, function = entry.partition(":")
    try:
        return getattr(importlib.import_module(module), function)(config, run_dir)
    except ConfigError as error:
        raise ConfigError(str(error)) from error  # the launcher knows it by the name of its class
    except RuntimeError as error:
        if isinstance(error, Ended) or is_consequence(error):
            time.sleep(CAUSE_FIRST_S)
        raise
