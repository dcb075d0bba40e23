"""Conversations, or prompts with completions, through a chat template."""

from dataclasses import dataclass
from typing import Literal

from zerokit.config.registry import register
from zerokit.data._options import DocumentOptions


@dataclass
class ChatOptions(DocumentOptions):
    seq_len: int = 1024
    """Tokens per row."""
    long: Literal["split", "cut", "drop"] = "cut"
    """What happens to conversations longer than a row: all of it in several pieces, its beginning, or nothing."""
    template: str | None = None
    """Chat template: `chatml`, `llama3`, `plain`, or a file (Jinja); null takes the tokenizer's own."""
    train_on: Literal["assistant", "all"] = "assistant"
    """What is learned: what the assistant says, with the mark that ends it, or everything."""


register("data", "chat", ChatOptions, "zerokit.data._chat:build")
