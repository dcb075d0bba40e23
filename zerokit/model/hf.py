"""Models of Hugging Face's `transformers`, from a folder: Llama, Qwen, Gemma, BERT, T5 and the others."""

from dataclasses import dataclass
from typing import Literal

from zerokit.config.registry import register


@dataclass
class HuggingFaceOptions:
    path: str = ""
    """Folder with config.json, and with safetensors for init=pretrained; or a name on the Hub, such as
    Qwen/Qwen3-0.6B, where this host can reach it."""
    init: Literal["pretrained", "random"] = "pretrained"
    """The folder's weights, or new ones drawn as the architecture draws them."""
    task: Literal["causal_lm", "seq2seq", "masked_lm", "classification"] = "causal_lm"
    """What the model learns, which says what stands on top of it: the next token, the tokens of another text, tokens
    that were masked, or a class."""
    attention: Literal["auto", "sdpa", "flash", "eager"] = "auto"
    """Implementation of the attention: torch's (`sdpa`), that of the package flash-attn (half precision, GPU), or plain
    products (`eager`); auto takes torch's where the architecture can."""
    loss: Literal["auto", "chunked", "transformers"] = "auto"
    """How causal_lm computes its loss: `chunked` never holds all logits at once and gives the values of
    `transformers`' own; auto takes it where the logits go straight from the output layer to the loss."""
    loss_chunk: int = 2048
    """Tokens whose logits exist at a time in a chunked loss."""
    missing: Literal["error", "random"] = "error"
    """What happens where the folder lacks weights of the model: an error, or new ones are drawn. The output layer of a
    classification is drawn anew in any case where it is missing or has another number of classes."""
    context: int | None = None
    """Longest sequence in tokens; null: that of the model's config."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path: expected a folder with config.json, or a name on the Hub. Example: model.path=DIR.")
        if self.loss_chunk < 1:
            raise ValueError(f"loss_chunk: expected at least 1; got {self.loss_chunk}.")
        if self.loss == "chunked" and self.task != "causal_lm":
            raise ValueError(f"loss: chunked is for task=causal_lm; got task={self.task}. Leave it out.")


register("model", "hf", HuggingFaceOptions, "zerokit.model._hf.build:build")
