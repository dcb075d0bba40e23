"""The user's own text files, as bytes or cut by a tokenizer."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from zerokit.config.registry import register
from zerokit.data._options import DocumentOptions
from zerokit.data._reading import TEXT_FILES


@dataclass
class TextOptions(DocumentOptions):
    packing: Literal["join", "apart", "none"] = "join"
    """`join`: files follow each other and are cut into rows, attention reaches across; `apart`: files share rows and
    see nothing of each other, positions restart; `none`: one file per row, padded, with a mask."""
    held_out_percent: int = 5
    """The last so many percent of every file are kept for validation, where there are no held_out_files; 0 none."""
    on_bad: Literal["error", "skip"] = "error"
    """What text that is no UTF-8 does, with another tokenizer than bytes: it ends the run, or is left out."""

    endings: ClassVar[tuple[str, ...]] = TEXT_FILES
    example: ClassVar[str] = "book.txt"


register("data", "text", TextOptions, "zerokit.data._text:build")
