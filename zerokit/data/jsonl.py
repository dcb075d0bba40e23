"""Rows with a field of text: JSON by line, a JSON list, parquet, or what `datasets` has saved; also with a class, or
with another text that follows from it."""

from dataclasses import dataclass, replace
from typing import Literal

from zerokit.config.registry import register
from zerokit.data._options import DocumentOptions


@dataclass
class JsonlOptions(DocumentOptions):
    field: str = "text"
    """Key of the text in each row; inner ones as OUTER.INNER."""
    label: str | None = None
    """Key of a class, a number from 0 or a name: the data are for classification then, one text per row."""
    target: str | None = None
    """Key of a text that is written after the other was read, such as a translation: the data are for seq2seq then."""
    target_len: int | None = None
    """Tokens of that text; null: seq_len."""
    packing: Literal["join", "apart", "none"] | None = None
    """`join`: documents follow each other and are cut into rows, attention reaches across; `apart`: whole documents
    share rows and see nothing of each other, positions restart; `none`: one document per row, padded, with a mask.
    null: none with a class or a target, else apart."""
    long: Literal["split", "cut", "drop"] | None = None
    """What happens to texts longer than a row: all of it in several pieces, its beginning, or nothing. null: cut with a
    class or a target, else split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        alone = self._alone
        if alone and self.packing not in ("none", None):
            kind = {"label": "a class", "target": "a target"}[alone]
            raise ValueError(
                f"packing: {kind} belongs to one text; with {alone}={getattr(self, alone)} expected none, or null."
            )
        if self.target is not None:
            self._check_pairs()
        elif self.target_len is not None:
            raise ValueError("target_len: expected target=FIELD beside it, which names the text that is written.")

    def _check_pairs(self) -> None:
        if self.long == "split":
            raise ValueError("long: a pair of texts cannot be divided; expected cut or drop, or null.")
        for key in ("label", "mask_percent"):
            if getattr(self, key):
                raise ValueError(f"{key}: expected one of target and {key}; got both.")
        if self.target_tokens < 2:
            raise ValueError(f"target_len: expected at least 2 tokens; got {self.target_len}.")

    @property
    def _alone(self) -> str | None:
        """The key of what belongs to one text, and not to a row of several."""
        return next((key for key in ("label", "target") if getattr(self, key) is not None), None)

    def resolved(self) -> "JsonlOptions":
        """The same without null for what follows from other options."""
        packing, long = ("none", "cut") if self._alone else ("apart", "split")
        return replace(self, packing=self.packing or packing, long=self.long or long)

    @property
    def target_tokens(self) -> int:
        """Tokens of the text that is written; 0 where there is none."""
        return 0 if self.target is None else self.target_len or self.seq_len

    @property
    def document_tokens(self) -> int:
        """Tokens of a pair together, or of a row."""
        return self.seq_len + self.target_tokens


register("data", "jsonl", JsonlOptions, "zerokit.data._jsonl:build")
