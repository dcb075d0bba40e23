"""Bytes of the user's own files."""

from dataclasses import dataclass, field

from zerokit.config.registry import register
from zerokit.data._checks import check_tokens


@dataclass
class TextOptions:
    files: list[str] = field(default_factory=list)
    """Paths or globs, e.g. [book.txt, "notes/**/*.md"]; relative to the folder the command was started in."""
    seq_len: int = 256
    """Tokens (bytes) per sample."""
    held_out_percent: int = 5
    """The last so many percent of every file are kept for validation."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files: expected at least one file or glob; got none. Example: data.files=[book.txt].")
        check_tokens(self.seq_len, self.held_out_percent)


register("data", "text", TextOptions, "zerokit.data._corpus:build_text")
