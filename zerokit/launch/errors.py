"""How a launched training ends badly. Imports no torch."""

from __future__ import annotations


class TrainingFailed(RuntimeError):
    """A worker failed; the text names its rank and holds the traceback of the root cause.

    rank: of the worker that failed first. signal: by which a worker was asked to end as well. headline: the first line
    of the text.
    """

    def __init__(self, text: str, rank: int = 0, signal: int | None = None):
        super().__init__(text)
        self.rank, self.signal, self.headline = rank, signal, text.partition("\n")[0]
