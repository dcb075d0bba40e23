"""Small tokenizers as folders that Hugging Face's libraries read, trained in a moment."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXT = Path(json.__file__).read_text() + " user assistant Hello hello yes no"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As Qwen's: it does not say where the assistant speaks, and trims."""


def decoder(folder: Path, template: str | None = CHATML, bos: bool = False) -> Path:
    """A byte-level BPE as Qwen's, or with `bos` one that begins every text, as Llama's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": template}
    if bos:
        settings["bos_token"] = "<s>"
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 3)])
    return _saved(tokenizer, folder, settings)


def encoder(folder: Path) -> Path:
    """A WordPiece as BERT's; its file says to cut and to pad, as published ones do."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=40)
    names = ("pad", "unk", "cls", "sep", "mask")
    return _saved(tokenizer, folder, {f"{name}_token": f"[{name.upper()}]" for name in names})


def _saved(tokenizer: Tokenizer, folder: Path, settings: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    kept = {"tokenizer_class": "PreTrainedTokenizerFast", **{k: v for k, v in settings.items() if v is not None}}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))
    return folder
