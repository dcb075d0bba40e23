"""Tiny models that transformers made and saved, and sources of data for them. Imports transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from tests.huggingface.models import DECODER, SEQ2SEQ, TEXT_ENCODER
from zerokit.config.data_info import DataInfo

SAMPLES, VOCABULARY, LENGTH, WRITTEN, CLASSES = 512, DECODER["vocab_size"], 12, 7, 3
CLASSIFIER = {**TEXT_ENCODER, "num_labels": CLASSES, "initializer_range": 0.3}
T5 = {**SEQ2SEQ, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0,
      "decoder_start_token_id": 0}  # fmt: skip
MODELS = {
    "llama": ("causal_lm", "Llama", "LlamaForCausalLM", DECODER),
    "qwen": ("causal_lm", "Qwen2", "Qwen2ForCausalLM", {**DECODER, "tie_word_embeddings": True}),
    "bert": ("masked_lm", "Bert", "BertForMaskedLM", TEXT_ENCODER),
    "t5": ("seq2seq", "T5", "T5ForConditionalGeneration", T5),
    "classifier": ("classification", "Bert", "BertForSequenceClassification", CLASSIFIER),
}
"""The task, the prefix of the configuration's class, the class, and the configuration of each model, by name."""
TASKS = {"causal_lm": "tokens", "masked_lm": "masked", "seq2seq": "seq2seq", "classification": "classification"}
"""What the data are for, by the task of the model."""


def save(name: str, folder: Path, vocabulary: int = VOCABULARY, seed: int = 0, context: int = 32,
         **options: Any) -> Path:  # fmt: skip
    """Make a model with the same weights each time and save it as transformers does."""
    _, family, kind, values = MODELS[name]
    torch.manual_seed(seed)
    values = {**values, "vocab_size": vocabulary, "max_position_embeddings": context}
    made = getattr(hf, kind)(getattr(hf, f"{family}Config")(**values))
    made.save_pretrained(folder / name, **options)
    return folder / name


def rows(task: str = "tokens") -> dict[str, Tensor]:
    """Arithmetic progressions (SAMPLES, LENGTH) as `input_ids`, and `labels`: of each row another number of its tokens,
    or of those that follow the row; or its class."""
    generator = torch.Generator().manual_seed(0)
    start, step = (torch.randint(1, n, (SAMPLES, 1), generator=generator) for n in (VOCABULARY, 4))
    tokens = 3 + (start + step * torch.arange(LENGTH + WRITTEN)) % (VOCABULARY - 3)
    if task == "classification":
        return {"input_ids": tokens[:, :LENGTH], "labels": step.flatten() - 1}
    learned = tokens[:, LENGTH:] if task == "seq2seq" else tokens[:, :LENGTH]
    masked = torch.rand(learned.shape, generator=generator) < torch.rand(SAMPLES, 1, generator=generator) * 0.9
    return {"input_ids": tokens[:, :LENGTH], "labels": learned.masked_fill(masked, -100)}


def info(task: str = "tokens") -> DataInfo:
    """Facts about the rows."""
    classes = CLASSES if task == "classification" else None
    written = WRITTEN if task == "seq2seq" else None
    return DataInfo(task, LENGTH, VOCABULARY, None, classes, "0", "rows", None, written, 0)


@dataclass
class RowOptions:
    task: str = "tokens"
    """What is learned of the rows."""


class Rows:
    """Rows in the order of their index, as mappings of tokens and labels."""

    def __init__(self, options: RowOptions) -> None:
        self.info = info(options.task)
        self.rows = rows(options.task)

    def __len__(self) -> int:
        return SAMPLES

    def batch(self, start: int, count: int) -> dict[str, Tensor]:
        """Samples `start … start+count-1`."""
        places = torch.arange(start, start + count) % SAMPLES
        return {name: values[places] for name, values in self.rows.items()}

    def validation(self, start: int, count: int) -> None:
        """There are none."""
        return None


def build_rows(options: RowOptions, seed: int) -> Rows:
    """The source."""
    return Rows(options)
