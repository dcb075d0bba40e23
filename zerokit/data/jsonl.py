"""Rows with a field of text: JSON by line, a JSON list, parquet, or what `datasets` has saved; also with a class."""

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.data._options import DocumentOptions


@dataclass
class JsonlOptions(DocumentOptions):
    field: str = "text"
    """Key of the text in each row; inner ones as OUTER.INNER."""
    label: str | None = None
    """Key of a class, a number from 0 or a name: the data are for classification then, one text per row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is not None and self.packing != "none":
            raise ValueError(f"packing: a class belongs to one text; with label={self.label} expected none.")


register("data", "jsonl", JsonlOptions, "zerokit.data._jsonl:build")
