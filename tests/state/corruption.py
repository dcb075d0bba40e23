"""Random damage to the files of a folder: flipped bits, zeroed, cut and lengthened files, missing and swapped ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

KINDS = ("flip", "byte", "zero", "cut", "longer", "missing", "swap")


def corrupt(folder: Path, generator: random.Random, kind: str | None = None) -> Callable[[], None]:
    """Damage one file below a folder at random; return what undoes it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = generator.choice(files)
    before = path.read_bytes()
    kind = kind or generator.choice(KINDS)
    data = bytearray(before)
    place = generator.randrange(len(data))
    if kind == "flip":
        data[place] ^= 1 << generator.randrange(8)
    elif kind == "byte":
        data[place] = (data[place] + generator.randrange(1, 256)) % 256
    elif kind == "zero":
        stop = min(len(data), place + generator.choice([512, 4096]))
        place = max(0, place - place % 512)
        data[place:stop] = bytes(stop - place)
    elif kind == "cut":
        del data[place:]
    elif kind == "longer":
        data += bytes(generator.randrange(1, 100))
    elif kind == "swap":  # two neighbouring stretches change places
        half = max(1, min(len(data) - place, place, 4096))
        data[place - half : place], data[place : place + half] = data[place : place + half], data[place - half : place]
    if kind == "missing":
        path.unlink()
    elif bytes(data) == before:
        return corrupt(folder, generator)
    else:
        path.write_bytes(data)
    return lambda: path.write_bytes(before) and None
