"""Text to tokens and back: bytes, or what a folder of Hugging Face or a `tokenizer.json` says (extra `hf`)."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import xxhash

from zerokit.config.errors import ConfigError
from zerokit.config.files import TOKENIZER_FILES, tokenizer_files

NEEDS_EXTRA = "{what} needs the packages tokenizers and transformers: pip install 'zerokit[hf]'."
END_OF_TEXT = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[SEP]", "<|im_end|>")
"""What ends a text in a `tokenizer.json` that stands alone, by its usual names."""


class Tokenizer(ABC):
    """What turns text into tokens and back.

    vocab_size: number of different tokens. bos, eos, pad, mask: ids, None where there are none.
    special: ids of all special tokens. prefix, suffix: what a whole
    document begins and ends with. template: its own chat template, or None. names: of the special tokens, as chat
    templates ask for them. marks: the texts of all special tokens.
    """

    vocab_size: int
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    mask: int | None = None
    special: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    template: str | None = None
    names: dict[str, str] = {}
    marks: tuple[str, ...] = ()

    @abstractmethod
    def encode(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text alone, without prefix and suffix."""

    @abstractmethod
    def encode_with_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of a text, and from which to which character each of them reaches."""

    @abstractmethod
    def decode(self, tokens: list[int]) -> str:
        """The text of tokens, without special ones."""


class Bytes(Tokenizer):
    """The bytes of UTF-8 as tokens; nothing marks where a text begins or ends."""

    vocab_size = 256

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode("utf-8", errors="surrogateescape")) for text in texts]

    def encode_with_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        tokens, places = [], []
        for place, character in enumerate(text):
            encoded = character.encode("utf-8", errors="surrogateescape")
            tokens += encoded
            places += [(place, place + 1)] * len(encoded)
        return tokens, places

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


class HuggingFace(Tokenizer):
    """A tokenizer of the library `tokenizers`.

    Args:
        path: a folder with `tokenizer.json`, or with what `transformers` makes one of; or such a file.
    """

    def __init__(self, path: Path):
        self._backend = _backend(path)
        self._backend.no_truncation()
        self._backend.no_padding()
        folder = path if path.is_dir() else path.parent
        self._settings = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
        self.vocab_size = self._backend.get_vocab_size(with_added_tokens=True)
        self.names = {key: text for key in ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token",
                      "cls_token", "mask_token") if (text := self._special(key))}  # fmt: skip
        added = self._backend.get_added_tokens_decoder()
        self.special = tuple(number for number, token in added.items() if token.special)
        self.marks = tuple(added[number].content for number in self.special)
        if "eos_token" not in self.names:
            ends = [self.names["sep_token"]] if "sep_token" in self.names else END_OF_TEXT
            known = [text for text in ends if self._id(text) is not None]
            self.names |= {"eos_token": known[0]} if known else {}
        self.bos, self.eos, self.pad = (self._id(self.names.get(f"{kind}_token")) for kind in ("bos", "eos", "pad"))
        self.mask = self._id(self.names.get("mask_token"))
        self.template = _template(folder, self._settings)
        self.prefix, self.suffix = self._around()

    def _special(self, key: str) -> str | None:
        value = self._settings.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        return text if isinstance(text, str) and self._id(text) is not None else None

    def _id(self, text: str | None) -> int | None:
        return None if text is None else self._backend.token_to_id(text)

    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the tokenizer puts around a text; a text that nothing ends is ended by `eos`."""
        plain = self._backend.encode("a", add_special_tokens=False).ids
        whole = self._backend.encode("a").ids
        start = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
        prefix, suffix = tuple(whole[:start]), tuple(whole[start + len(plain) :])
        return prefix, suffix or (() if self.eos is None else (self.eos,))

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [encoded.ids for encoded in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_with_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded = self._backend.encode(text, add_special_tokens=False)
        return encoded.ids, encoded.offsets

    def decode(self, tokens: list[int]) -> str:
        return self._backend.decode(tokens, skip_special_tokens=True)


def load_tokenizer(given: str) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names: `bytes`, a folder, or a file.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    if given == "bytes":
        return Bytes()
    tokenizer_files(given)
    return HuggingFace(Path(given).expanduser())


def digest(given: str) -> str:
    """A digest of everything that decides how `data.tokenizer` cuts text, without loading it."""
    found = xxhash.xxh3_128(b"bytes")
    for file in [] if given == "bytes" else tokenizer_files(given):
        content = file.read_bytes()
        found.update(f"{file.name} {len(content)} ".encode() + content)
    return found.hexdigest()


def _backend(path: Path) -> Any:
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if not file.exists():
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(path, local_files_only=True).backend_tokenizer
        from tokenizers import Tokenizer as Backend

        return Backend.from_file(str(file))
    except ImportError as error:
        raise ConfigError(NEEDS_EXTRA.format(what=f"data.tokenizer={path}")) from error
    except Exception as error:  # `tokenizers` raises no narrower one
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"data.tokenizer: {file} cannot be read as a tokenizer: {reason}. Expected a folder that `transformers` "
            f"saved ({', '.join(TOKENIZER_FILES[:2])}, …) or a tokenizer.json."
        ) from error


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The chat template in a folder: a file of its own, or in the settings, where there may be several by name."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    return found


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"data.tokenizer: {file} is no JSON: {error}.") from error
