"""Lines for people: the logger `zerokit.compat.deepspeed`, shown on stderr unless logging is set up otherwise."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from zerokit.compat.deepspeed import comm

logger = logging.getLogger("zerokit.compat.deepspeed")

logger.setLevel(logging.INFO)
if not logger.handlers and not logging.getLogger().handlers:
    _handler = logging.StreamHandler()
    _handler.setFormatter(logging.Formatter("zerokit: %(message)s"))
    logger.addHandler(_handler)
    logger.propagate = False


def log_dist(message: str, ranks: Sequence[int] | None = None, level: int = logging.INFO) -> None:
    """Log on the given ranks; None or -1 means all of them, no argument rank 0."""
    if ranks is None or -1 in ranks or comm.get_rank() in ranks:
        logger.log(level, message)


def tell(message: str) -> None:
    """Log on rank 0."""
    log_dist(message, ranks=[0])


def warn(message: str) -> None:
    """Warn on rank 0."""
    log_dist(message, ranks=[0], level=logging.WARNING)
