"""From the options of a family to the decoder's shape."""

from __future__ import annotations

from zerokit.config.data_info import DataInfo
from zerokit.config.errors import ConfigError
from zerokit.model._decoder import Decoder, Shape
from zerokit.model._layers import RotaryScaling


def build_gpt(options, data: DataInfo) -> Decoder:
    """Decoder as GPT-2, or as the options say."""
    return _decoder(
        options,
        data,
        kv_heads=options.heads,
        hidden=4 * options.dim if options.hidden is None else options.hidden,
        activation=options.activation,
        norm=options.norm,
        norm_eps=1e-5,
        bias=options.bias,
        theta=10000.0 if options.positions == "rotary" else None,
        scaling=None,
        qk_norm=options.qk_norm,
    )


def build_llama(options, data: DataInfo) -> Decoder:
    """Decoder as Llama 3."""
    scaling = None
    if options.rope_factor is not None:
        scaling = RotaryScaling(options.rope_factor, options.rope_low, options.rope_high, options.rope_context)
    return _decoder(
        options,
        data,
        kv_heads=options.kv_heads,
        hidden=options.hidden,
        activation="swiglu",
        norm="rmsnorm",
        norm_eps=options.norm_eps,
        bias=False,
        theta=options.rope_theta,
        scaling=scaling,
        qk_norm=False,
    )


def _decoder(options, data: DataInfo, **parts) -> Decoder:
    if data.task != "tokens":
        raise ConfigError(f"model: a language model needs tokens, the data are for {data.task}; take model=mlp.")
    shape = Shape(
        vocab_size=data.vocab_size if options.vocab_size is None else options.vocab_size,
        context=data.seq_len if options.context is None else options.context,
        dim=options.dim,
        layers=options.layers,
        heads=options.heads,
        tied=options.tied,
        dropout=options.dropout,
        init_std=options.init_std,
        loss_chunk=options.loss_chunk,
        **parts,
    )
    _check_against(data, shape)
    return Decoder(shape)


def _check_against(data: DataInfo, shape: Shape) -> None:
    if shape.vocab_size < data.vocab_size:
        raise ConfigError(
            f"model.vocab_size: the data have {data.vocab_size} different tokens; got {shape.vocab_size}."
        )
    if shape.context < data.seq_len:
        raise ConfigError(f"model.context: data.seq_len is {data.seq_len}; got {shape.context}.")
