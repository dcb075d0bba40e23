"""Where the YAML files of zerokit lie."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]

# A wheel carries conf/ inside the package; a checkout and an editable install have it beside the package.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


def choices(group: str) -> list[str]:
    """Return the names of the YAML files of a group, sorted."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))
