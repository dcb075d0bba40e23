"""One finding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """state: "ok", "note" (works, but not as well as it could) or "bad" (something would fail).

    what: the thing; finding: what was found; remedy: what to do, empty for "ok".
    """

    state: str
    what: str
    finding: str
    remedy: str = ""


def ok(what: str, finding: str) -> Line:
    """Nothing to do."""
    return Line("ok", what, finding)


def note(what: str, finding: str, remedy: str) -> Line:
    """It works, and could be better."""
    return Line("note", what, finding, remedy)


def bad(what: str, finding: str, remedy: str) -> Line:
    """Something would fail."""
    return Line("bad", what, finding, remedy)
