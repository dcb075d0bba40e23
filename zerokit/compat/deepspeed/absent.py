"""Parts of DeepSpeed that are not there: they may be imported, and say what to do instead when they are used."""

from __future__ import annotations

from typing import Any, NoReturn

from zerokit.compat.deepspeed.errors import AbsentError


def absent(name: str, instead: str) -> type:
    """A class of this name whose construction raises AbsentError."""

    def refuse(_self: Any, *_: Any, **__: Any) -> NoReturn:
        raise AbsentError(f"deepspeed's {name} is not there: {instead}.")

    return type(name, (), {"__init__": refuse, "__doc__": f"Not there: {instead}."})
