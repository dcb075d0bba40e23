"""How saving and reading fail. Imports no torch."""

from __future__ import annotations

from zerokit.config.errors import ConfigError


class StateError(RuntimeError):
    """A state cannot be written or read; the text names the file."""


class DamagedState(StateError):
    """What was read is not what was written: a byte changed, or a file is cut, missing, foreign or malicious."""


class StateMismatch(StateError, ConfigError):
    """The state is sound, but of another training than the one it is loaded into."""
