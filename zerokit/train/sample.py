"""The text at the end of a run, as the model that was trained writes it."""

from __future__ import annotations

import logging

from zerokit.config.schema import Config
from zerokit.train.forward import logits_of
from zerokit.train.trainer import Trainer, evaluating

log = logging.getLogger("zerokit")

PROMPTS = {256: "def "}
"""Beginning of the sample by size of the vocabulary; other vocabularies start from token 0."""


def sample(trainer: Trainer, cfg: Config) -> str | None:
    """Text continued by the model, prompt included; None where the data has no text, or the model does not predict what
    follows. A collective."""
    info, source, engine = trainer.info, trainer.loader.source, trainer.engine
    follows = getattr(engine.module, "shifts_labels", True)
    if info.task != "tokens" or cfg.train.sample_tokens == 0 or not follows:
        return None
    from zerokit.model._generate import generate

    prompt = list(PROMPTS[info.vocab_size].encode()) if info.vocab_size in PROMPTS else [0]
    options = cfg.train
    with evaluating(engine.module), engine.evaluating():
        tokens = generate(
            lambda known: logits_of(engine(known)),
            prompt, options.sample_tokens, 0.7, options.seed, info.seq_len, engine.device,
        )  # fmt: skip
    try:
        return source.decode(prompt + tokens)
    except Exception as error:  # of a source that a user has registered; the training is over, whatever it shows
        log.warning("the sample cannot be shown: %s: %s", type(error).__name__, error)
        return None
