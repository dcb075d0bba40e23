"""How a launched training ends badly. Imports no torch."""

from __future__ import annotations


class TrainingFailed(RuntimeError):
    """A worker failed; the text names its rank and holds the traceback of the root cause."""
