"""A run's model with its weights in one process, to evaluate it and to let it write."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from zerokit.comm import Communicator
from zerokit.comm.process import device_of
from zerokit.config import registry
from zerokit.config.errors import ConfigError
from zerokit.config.registry import Choice
from zerokit.config.schema import BatchConfig, Config
from zerokit.state.folder import FOLDER, saved_states
from zerokit.train.assemble import assemble
from zerokit.train.export import weights_of_export, weights_of_state
from zerokit.train.final import FOLDER as MODEL
from zerokit.train.forward import logits_of
from zerokit.train.trainer import Trainer, evaluating


def open_finished(cfg: Config, run: Path, state: Path | None = None) -> tuple[Trainer, str]:
    """The model of a run as `cfg` says, with the weights of a state, or else of the end of the run, or else of its
    newest state; and which these are, in words.

    Raises:
        ConfigError: there are no weights. DamagedState: a file of the state is not as it was written.
    """
    device = device_of(cfg.launch)
    torch.set_num_threads(cfg.launch.threads or os.cpu_count() or 1)
    plain = registry.options_type("optimizer", "sgd")(momentum=0.0)  # its states would be memory for nothing
    cfg = replace(
        cfg,
        zero=replace(cfg.zero, stage=0, auto=False, shard_size="all", offload="none"),
        optimizer=Choice("sgd", plain),
        scheduler=Choice("constant", registry.options_type("scheduler", "constant")()),
        batch=BatchConfig(micro=cfg.batch.micro or 4, accumulation=1),
        train=replace(cfg.train, compile=False, cuda_graph=False),
    )
    trainer = assemble(cfg, Communicator(device))
    folder = run / MODEL
    if state is None and not any(folder.glob("*.safetensors")):
        newest = saved_states(run / FOLDER)
        if not newest:
            raise ConfigError(f"{run} has no weights: neither {MODEL}/, which state.final=true leaves, nor a state.")
        state = newest[0].path
    if state is not None:
        weights, told = weights_of_state(state), str(state)
    else:
        weights, told = weights_of_export(trainer.engine, cfg.to_dict(), folder), str(folder)
    trainer.engine.load_full_state_dict(weights, strict=trainer.engine.save_frozen)
    return trainer, told


def write_on(trainer: Trainer, text: str, count: int, temperature: float, top_p: float, seed: int,
             told: Callable[[str], None]) -> str:  # fmt: skip
    """What the model writes after `text`, at most `count` tokens; `told` hears each piece of text when it is there.

    Raises:
        ConfigError: the model or its data write no text.
    """
    source, engine, info = trainer.loader.source, trainer.engine, trainer.info
    if info.task not in ("tokens", "seq2seq") or not hasattr(source, "prompt"):
        raise ConfigError(f"This run is for {info.task}, of which no text follows; use zerokit evaluate.")
    from zerokit.model._generate import generate

    tokens: list[int] = []
    shown = ""

    def hear(token: int) -> None:
        nonlocal shown
        tokens.append(token)
        whole = source.decode(tokens)
        if not whole.endswith("\ufffd") and whole.startswith(shown):  # else a character is not yet whole
            told(whole[len(shown) :])
            shown = whole

    prompt, stop = source.prompt(text) or [0], getattr(source, "stop", None)
    forward, context = (lambda known: logits_of(engine(known))), info.seq_len
    if info.task == "seq2seq":
        read = torch.tensor([prompt], device=engine.device)
        forward = lambda known: logits_of(engine(input_ids=read, decoder_input_ids=known))  # noqa: E731
        prompt, context = [engine.module.config.decoder_start_token_id], info.target_len
    with evaluating(engine.module):
        generate(forward, prompt, count, temperature, seed, context, engine.device, top_p, stop, hear)
    whole = source.decode(tokens)
    told(whole[len(shown) :])
    return whole
