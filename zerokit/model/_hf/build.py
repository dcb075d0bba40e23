"""From the options of `model=hf` to a model on the meta device, and where its weights come from."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from zerokit.config.data_info import DataInfo
from zerokit.config.errors import ConfigError
from zerokit.model._hf.checkpoint import report, stored_weights
from zerokit.model._hf.folder import local_folder
from zerokit.model._hf.loss import make_loss_head
from zerokit.model._hf.masks import ask_no_values
from zerokit.model._hf.packages import load_package
from zerokit.model._hf.trained import trained

log = logging.getLogger("zerokit")

CLASSES = {
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "masked_lm": "AutoModelForMaskedLM",
    "classification": "AutoModelForSequenceClassification",
}
NEEDS = {
    "causal_lm": ("tokens", "tokens"),
    "seq2seq": ("seq2seq", "texts that are written (data.target=FIELD)"),
    "masked_lm": ("masked", "masked tokens (data.mask_percent=15)"),
    "classification": ("classification", "classes (data.label=FIELD)"),
}
"""What each task learns from (`DataInfo.task`), and that in words."""
ATTENTION = {"auto": None, "sdpa": "sdpa", "flash": "flash_attention_2", "eager": "eager"}


def build(options: Any, data: DataInfo | None = None) -> nn.Module:
    """The model that `model=hf` names, on the meta device, for these data.

    `stored_weights` says how each of its parameters and buffers is read; what is not there it draws by `reset_module`.

    Raises:
        ConfigError: there is no such model, or it does not suit the task or the data.
    """
    transformers = load_package("transformers", "model=hf")
    folder = local_folder(options.path)
    config = _config(transformers, folder, options)
    if data is not None:
        _suit(config, data, options)
    model = _made(transformers, config, options)
    model.options, model.shifts_labels = options, options.task == "causal_lm"
    _choose_loss(model, options)
    if options.init == "pretrained":
        model.weights_folder = folder
        model.stored_weights = stored_weights(folder, model, lambda name: _may_lack(model, name, options))
        if (new := report(model.stored_weights, model)) is not None:
            log.info("model.path=%s: %s", folder, new)
    return model.train()


def _config(transformers: ModuleType, folder: Path, options: Any) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise ConfigError(
            f"model.path={options.path}: transformers {transformers.__version__} does not know this model: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise ConfigError(f"model.path={options.path}: its weights are quantised, which is not trained; take others.")
    return config


def _suit(config: Any, data: DataInfo, options: Any) -> None:
    """Compare a model with the data, and give a classification its classes."""
    wanted, words = NEEDS[options.task]
    if data.task != wanted:
        raise ConfigError(f"model.task={options.task} needs data for {words}, and these are for {data.task}.")
    if options.task == "classification":
        _name_classes(config, data)
    text = config.get_text_config()
    vocabulary, longest = getattr(text, "vocab_size", None), _context(text, options)
    if data.vocab_size is not None and vocabulary is not None and data.vocab_size > vocabulary:
        raise ConfigError(
            f"model.path={options.path} knows {vocabulary} tokens, and the data have {data.vocab_size}. Is "
            "data.tokenizer that of the model?"
        )
    for key in ("seq_len", "target_len"):
        size = getattr(data, key)
        if size is not None and longest is not None and size > longest:
            raise ConfigError(
                f"data.{key}={size} is longer than the {longest} tokens of model.path={options.path}; lower it."
            )


def _name_classes(config: Any, data: DataInfo) -> None:
    """Give a configuration the classes of the data, by number and, where they have one, by name.

    Raises:
        ConfigError: there is but one.
    """
    if data.out_features is None or data.out_features < 2:
        raise ConfigError(
            "model.task=classification needs at least two classes; the field that data.label names is the same in all "
            "rows."
        )
    before = list((config.id2label or {}).values())
    config.num_labels, config.problem_type = data.out_features, "single_label_classification"
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is None:  # by which decoders find the end of a row
        text.pad_token_id = data.pad
    if not data.classes:
        return
    config.id2label = dict(enumerate(data.classes))
    config.label2id = {name: number for number, name in enumerate(data.classes)}
    named = not all(str(name).startswith("LABEL_") for name in before)
    if named and len(before) == len(data.classes) and before != list(data.classes):
        log.warning(
            "the model knows the classes %s, and the data have %s in their places: its output layer starts from those",
            ", ".join(map(str, before)), ", ".join(data.classes),
        )  # fmt: skip


def _context(text: Any, options: Any) -> int | None:
    return options.context or getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)


def _made(transformers: ModuleType, config: Any, options: Any) -> nn.Module:
    factory = getattr(transformers, CLASSES[options.task])
    attention = ATTENTION[options.attention]
    try:
        with torch.device("meta"):
            model = factory.from_config(config, attn_implementation=attention, dtype=torch.float32)
    except ImportError as error:
        raise ConfigError(
            f"model.attention={options.attention}: {_line(error)} Install it, or choose model.attention=sdpa."
        ) from error
    except ValueError as error:
        if "attention" in str(error).lower() or "attn" in str(error).lower():
            raise ConfigError(f"model.attention={options.attention}: {_line(error)} Choose eager or sdpa.") from error
        raise ConfigError(
            f"model.task={options.task}: transformers has no such model of type '{config.model_type}' "
            f"(model.path={options.path}). Choose another of {', '.join(CLASSES)}."
        ) from error
    model.__class__ = trained(type(model))
    ask_no_values()
    return model


def _line(error: Exception) -> str:
    line = str(error).strip().splitlines()[0]
    return line if line.endswith(".") else f"{line}."


def _choose_loss(model: nn.Module, options: Any) -> None:
    if options.task != "causal_lm" or options.loss == "transformers":
        return
    if not make_loss_head(model, options.loss_chunk):
        what = f"{type(model).__name__} changes its logits after the output layer, or has a bias there"
        if options.loss == "chunked":
            raise ConfigError(f"model.loss=chunked: {what}; choose model.loss=transformers.")
        log.info("%s: its own loss is taken, which holds all logits (model.loss)", what)


def _may_lack(model: nn.Module, name: str, options: Any) -> bool:
    """Whether a weight that is not in the folder is drawn anew."""
    if options.missing == "random":
        return True
    body = f"{model.base_model_prefix}."
    return options.task == "classification" and (not name.startswith(body) or "pooler" in name)
