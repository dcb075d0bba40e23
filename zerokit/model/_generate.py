"""Sampling text from a language model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def generate(
    forward: Callable[[Tensor], Tensor],
    prompt_tokens: list[int],
    count: int,
    temperature: float,
    seed: int,
    context: int,
    device: torch.device | str = "cpu",
) -> list[int]:
    """Continues `prompt_tokens` (at least one) by `count` tokens and returns these.

    `forward`: tokens (1, T) → logits (1, T, V), on `device`; called `count` times with one fixed T (at most
    `context`), so that compiled models compile once and all ranks of a sharded model may call this together: they
    draw the same tokens. Temperature 0 takes the likeliest token.
    """
    if not prompt_tokens:
        raise ValueError("generate: expected a prompt of at least one token, got none")
    tokens = list(prompt_tokens)
    generator = torch.Generator().manual_seed(seed)
    length = min(context, len(tokens) + count - 1)
    for _ in range(count):
        window = tokens[-length:]
        # Padding stands on the right, where a causal model cannot see it.
        padded = torch.tensor([window + [0] * (length - len(window))], device=device)
        logits = forward(padded)[0, len(window) - 1].float().cpu()
        tokens.append(_draw(logits, temperature, generator))
    return tokens[len(prompt_tokens) :]


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
