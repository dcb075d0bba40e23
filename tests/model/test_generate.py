"""Sampling: what is fed, what is drawn."""

import pytest
import torch

from zerokit.model._generate import generate


class Counter:
    """A model of 10 words whose next word is the last one plus 1; notes the shapes it is called with."""

    def __init__(self):
        self.shapes = []

    def __call__(self, tokens):
        self.shapes.append(tuple(tokens.shape))
        return torch.nn.functional.one_hot((tokens + 1) % 10, 10).float() * 50


def test_continues_the_prompt():
    assert generate(Counter(), [3, 4], 7, temperature=0.0, seed=0, context=4) == [5, 6, 7, 8, 9, 0, 1]
    assert generate(Counter(), [3, 4], 7, temperature=1.0, seed=0, context=100) == [5, 6, 7, 8, 9, 0, 1]


@pytest.mark.parametrize(("context", "length"), [(4, 4), (100, 8)])
def test_calls_with_one_shape_once_per_token(context, length):
    model = Counter()
    generate(model, [3, 4], 7, temperature=1.0, seed=0, context=context)
    assert model.shapes == [(1, length)] * 7


def test_seed_decides():
    def uniform(tokens):
        return torch.zeros(*tokens.shape, 10)

    draw = [generate(uniform, [0], 30, temperature=1.0, seed=seed, context=8) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="prompt of at least one token"):
        generate(Counter(), [], 3, temperature=1.0, seed=0, context=8)


def test_top_p_leaves_out_what_is_unlikely_and_a_stop_ends(monkeypatch):
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    told = []

    def forward(tokens):
        return logits.expand(1, tokens.shape[1], 4)

    def drawn(top_p: float, **more) -> list[int]:
        return generate(forward, [0], 200, 1.0, 0, 8, top_p=top_p, **more)

    assert [set(drawn(top_p)) for top_p in (0.4, 0.6, 0.9, 1.0)] == [{0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}]
    stopped = drawn(1.0, stop=2, told=told.append)
    assert stopped == told and stopped.index(2) == len(stopped) - 1
