"""How documents become rows of equal length: joined and cut, packed whole, or one to a row."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zerokit.data._cache import cached, mapped
from zerokit.data._store import SPLITS


class Rows(NamedTuple):
    """Rows made of pieces of documents. pieces (P, 3): first token, length and document, row by row; ends (R,): of each
    row's pieces."""

    pieces: Tensor
    ends: Tensor

    def row(self, index: int) -> list[list[int]]:
        """The pieces of a row: first token, length and document of each."""
        first = 0 if index == 0 else int(self.ends[index - 1])
        return self.pieces[first : int(self.ends[index])].tolist()


def planned(store: Path, ends: dict[str, Tensor], size: int, packing: str, long: str, shortest: int
            ) -> tuple[dict[str, Rows], dict[str, Any]]:  # fmt: skip
    """The rows of each split of a store, and how many documents were cut or dropped by split.

    ends: where its documents end. size: tokens of a row. packing: `apart` or `none`. long: what happens to documents
    of more tokens: `split`, `cut` or `drop`. shortest: tokens below which a piece is left out.
    """
    key = {"rows of": store.name, "size": size, "packing": packing, "long": long, "shortest": shortest}

    def make(folder: Path) -> dict[str, Any]:
        return {split: _write(folder, split, ends[split], size, packing, long, shortest) for split in SPLITS}

    folder, facts = cached(key, make)
    found = {
        split: Rows(mapped(folder / f"{split}.pieces", torch.int64).view(-1, 3),
                    mapped(folder / f"{split}.rows", torch.int64)) for split in SPLITS
    }  # fmt: skip
    return found, facts


def _write(folder: Path, split: str, ends: Tensor, size: int, packing: str, long: str, shortest: int
           ) -> dict[str, int]:  # fmt: skip
    pieces, changed = _pieces(ends, size, long)
    pieces = pieces[pieces[:, 1] >= shortest]
    if packing == "apart":
        order, row_ends = packed(pieces[:, 1].tolist(), size)
        pieces, row_ends = pieces[order], torch.tensor(row_ends)
    else:
        row_ends = torch.arange(1, len(pieces) + 1)
    for name, values in (("pieces", pieces), ("rows", row_ends)):
        with (folder / f"{split}.{name}").open("wb") as file:
            array("q", values.flatten().tolist()).tofile(file)
    return changed


def _pieces(ends: Tensor, size: int, long: str) -> tuple[Tensor, dict[str, int]]:
    """First token, length and document (P, 3) of the pieces of documents, and how many documents are too long.

    Pieces of one document overlap by a token, so that only its first is never a target.
    """
    starts, documents = torch.cat((ends.new_zeros(1), ends[:-1])), torch.arange(len(ends))
    if not len(ends):
        starts = ends
    lengths = ends - starts
    too_long = lengths > size
    changed = {"documents": int(too_long.sum()), "tokens": int((lengths - size).clamp(min=0).sum())}
    if long == "drop":
        starts, lengths, documents = starts[~too_long], lengths[~too_long], documents[~too_long]
    elif long == "cut":
        lengths = lengths.clamp(max=size)
    elif too_long.any():
        counts = 1 + (lengths - size).clamp(min=0).add(size - 2).div(size - 1, rounding_mode="floor")
        documents = torch.repeat_interleave(documents, counts)
        within = torch.arange(len(documents)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        starts = starts[documents] + within * (size - 1)
        lengths = (ends[documents] - starts).clamp(max=size)
    return torch.stack((starts, lengths, documents), dim=1), changed


def packed(lengths: list[int], size: int) -> tuple[list[int], list[int]]:
    """Pieces in the order of rows of `size` tokens, and where each row ends in it.

    The longest first, each into the fullest row that has room (best fit decreasing; D. S. Johnson, 1973).
    """
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []  # sorted, without those of which no row is left
    for piece in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = bisect_left(rooms, lengths[piece])
        if place == len(rooms):
            row, room = len(rows), size
            rows.append([])
        else:
            room = rooms[place]
            row = by_room[room].pop()
            if not by_room[room]:
                rooms.pop(place)
        rows[row].append(piece)
        if left := room - lengths[piece]:
            if not by_room[left]:
                insort(rooms, left)
            by_room[left].append(row)
    order = [piece for row in rows for piece in row]
    row_ends = torch.tensor([len(row) for row in rows], dtype=torch.int64).cumsum(0).tolist()
    return order, row_ends
