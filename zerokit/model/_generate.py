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
    top_p: float = 1.0,
    stop: int | None = None,
    told: Callable[[int], None] = lambda token: None,
) -> list[int]:
    """Continues `prompt_tokens` (at least one) by `count` tokens and returns these.

    `forward`: tokens (1, T) → logits (1, T, V), on `device`; called `count` times with one fixed T (at most
    `context`), so that compiled models compile once and all ranks of a sharded model may call this together: they
    draw the same tokens. Temperature 0 takes the likeliest token; `top_p` draws from the likeliest ones that have this
    probability together (Holtzman et al. 2019, arXiv 1904.09751). It ends after `stop`, and `told` hears every token.
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
        tokens.append(_draw(logits, temperature, top_p, generator))
        told(tokens[-1])
        if tokens[-1] == stop:
            break
    return tokens[len(prompt_tokens) :]


def _draw(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    chances = (logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = chances.sort(descending=True)
        chances[order[ordered.cumsum(0) - ordered >= top_p]] = 0
    return int(torch.multinomial(chances, 1, generator=generator))
