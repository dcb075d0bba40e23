"""Tiny models that transformers made and saved, and sources of data for them. Imports transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from tests.huggingface.models import DECODER, TEXT_ENCODER
from zerokit.config.data_info import DataInfo

SAMPLES, VOCABULARY, LENGTH = 512, DECODER["vocab_size"], 12
MODELS = {
    "llama": ("causal_lm", "Llama", "LlamaForCausalLM", DECODER),
    "qwen": ("causal_lm", "Qwen2", "Qwen2ForCausalLM", {**DECODER, "tie_word_embeddings": True}),
    "bert": ("masked_lm", "Bert", "BertForMaskedLM", TEXT_ENCODER),
}
"""The task, the prefix of the configuration's class, the class, and the configuration of each model, by name."""
TASKS = {"causal_lm": "tokens", "masked_lm": "masked"}
"""What the data are for, by the task of the model."""


def save(name: str, folder: Path, vocabulary: int = VOCABULARY, seed: int = 0, **options: Any) -> Path:
    """Make a model with the same weights each time and save it as transformers does."""
    _, family, kind, values = MODELS[name]
    torch.manual_seed(seed)
    made = getattr(hf, kind)(getattr(hf, f"{family}Config")(**{**values, "vocab_size": vocabulary}))
    made.save_pretrained(folder / name, **options)
    return folder / name


def rows() -> tuple[Tensor, Tensor]:
    """Arithmetic progressions (SAMPLES, LENGTH), and their labels, of which each row has another number."""
    generator = torch.Generator().manual_seed(0)
    start, step = (torch.randint(1, n, (SAMPLES, 1), generator=generator) for n in (VOCABULARY, 4))
    tokens = 3 + (start + step * torch.arange(LENGTH)) % (VOCABULARY - 3)
    masked = torch.rand(SAMPLES, LENGTH, generator=generator) < torch.rand(SAMPLES, 1, generator=generator) * 0.9
    return tokens, tokens.masked_fill(masked, -100)


def info(task: str = "tokens") -> DataInfo:
    """Facts about the rows."""
    return DataInfo(task, LENGTH, VOCABULARY, None, None, "0", "rows", None)


@dataclass
class RowOptions:
    task: str = "tokens"
    """What is learned of the rows."""


class Rows:
    """Rows in the order of their index, as mappings of tokens and labels."""

    def __init__(self, options: RowOptions) -> None:
        self.info = info(options.task)
        self.tokens, self.labels = rows()

    def __len__(self) -> int:
        return SAMPLES

    def batch(self, start: int, count: int) -> dict[str, Tensor]:
        """Samples `start … start+count-1`."""
        places = torch.arange(start, start + count) % SAMPLES
        return {"input_ids": self.tokens[places], "labels": self.labels[places]}

    def validation(self, start: int, count: int) -> None:
        """There are none."""
        return None


def build_rows(options: RowOptions, seed: int) -> Rows:
    """The source."""
    return Rows(options)
