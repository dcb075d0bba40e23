"""Errors that DeepSpeed raises as AssertionError, so that code which catches these works."""

from __future__ import annotations

from zerokit.config.errors import ConfigError


class MisuseError(ConfigError, RuntimeError, AssertionError):
    """A call that cannot be made, or not here."""


class AbsentError(ConfigError, NotImplementedError):
    """A part of DeepSpeed that is not there, with the alternative."""
