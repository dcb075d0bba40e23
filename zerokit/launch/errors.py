"""How a launched training ends badly. Imports no torch."""

from __future__ import annotations


class TrainingFailed(RuntimeError):
    """A worker failed; the text names its rank and holds the traceback of the root cause.

    rank: of the worker that failed first. headline: the first line of the text.
    """

    def __init__(self, text: str, rank: int = 0):
        super().__init__(text)
        self.rank, self.headline = rank, text.partition("\n")[0]
