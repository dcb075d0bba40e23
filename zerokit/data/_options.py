"""Options that all sources of documents share, and their checks; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from zerokit.config.files import matching_files, tokenizer_files
from zerokit.data._reading import ROW_FILES


@dataclass
class DocumentOptions:
    files: list[str] = field(default_factory=list)
    """Files, globs or folders, relative to where the command was started; also compressed (.gz)."""
    tokenizer: str = "bytes"
    """A folder with a tokenizer, a tokenizer.json, or `bytes`."""
    seq_len: int = 256
    """Tokens per row."""
    packing: Literal["join", "apart", "none"] = "apart"
    """`join`: documents follow each other and are cut into rows, attention reaches across; `apart`: whole documents
    share rows and see nothing of each other, positions restart; `none`: one document per row, padded, with a mask."""
    long: Literal["split", "cut", "drop"] = "split"
    """What happens to documents longer than a row: all of it in several pieces, its beginning, or nothing."""
    held_out_percent: int = 5
    """Share of the documents kept for validation, in percent, where there are no held_out_files; 0 keeps none."""
    held_out_files: list[str] = field(default_factory=list)
    """Files for validation, in place of a share of the others."""
    on_bad: Literal["error", "skip"] = "error"
    """What a row that cannot be used does: it ends the run, or is left out and counted."""

    mask_percent: int = 0
    """Share of the tokens that are hidden and predicted where they stand, as BERT is trained (15), in percent; 0
    predicts every token from those before it."""

    endings: ClassVar[tuple[str, ...]] = ROW_FILES
    example: ClassVar[str] = "chats.jsonl"

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError(
                f"files: expected at least one file, glob or folder; got none. Example: data.files=[{self.example}]."
            )
        if self.seq_len < 2:
            raise ValueError(f"seq_len: expected at least 2 tokens per row; got {self.seq_len}.")
        if not 0 <= self.held_out_percent <= 50:
            raise ValueError(f"held_out_percent: expected 0 to 50; got {self.held_out_percent}.")
        if not 0 <= self.mask_percent <= 100:
            raise ValueError(f"mask_percent: expected 0 to 100; got {self.mask_percent}.")

    @property
    def document_tokens(self) -> int:
        """Most tokens of a document that stays whole."""
        return self.seq_len

    def check_files(self) -> None:
        """Raises ConfigError unless the files and the tokenizer are there."""
        for key in ("files", "held_out_files"):
            matching_files(f"data.{key}", getattr(self, key), self.endings)
        if self.tokenizer != "bytes":
            tokenizer_files(self.tokenizer)
