from __future__ import annotations

import pytest

from tests.config.arguments import config
from zerokit.config.schema import Config
from zerokit.estimate.machine import hardware_of
from zerokit.estimate.remedies import advise
from zerokit.estimate.simulate import Simulator

SMALL = (
    "model.dim=64", "model.layers=4", "model.heads=4", "data=synthetic", "data.seq_len=64", "data.vocab_size=256",
    "zero.min_unit=1", "batch.global=24", "launch.device=cpu", "train.compile=false",
)  # fmt: skip


def peak(*words: str) -> int:
    cfg: Config = config(*SMALL, *words)
    return Simulator(cfg, hardware_of(cfg)).predict(cfg, 2).peak


def saved(*words: str, missing: float | None = None) -> tuple[dict[str, float], tuple[str, ...]]:
    advice = advise(config(*SMALL, *words), 2, missing)
    return {remedy.words: remedy.saves for remedy in advice.remedies}, advice.together


STATES = ("zero=stage0", "batch.global=4")
"""So few samples that the states count too."""


def test_what_an_option_saves_is_the_difference_of_two_predictions():
    found, _ = saved(*STATES)
    assert list(found) == [
        "zero=stage1", "zero=stage2", "zero=stage3", "batch.micro=1", "checkpointing=selective", "checkpointing=full",
        "precision=bf16", "optimizer.moments=bf16", "optimizer.moments=int8",
    ]  # fmt: skip
    before = peak(*STATES)
    for words in ("zero=stage3", "batch.micro=1", "checkpointing=full", "optimizer.moments=int8"):
        assert found[words] == before - peak(*STATES, words) > 0, words


def test_states_go_to_the_host_and_masters_lose_bits_where_there_are_any(monkeypatch):
    monkeypatch.setattr("zerokit.estimate.remedies.gpus", lambda cfg: 1)
    found, _ = saved(*STATES, "precision=bf16", "optimizer.moments=int8")
    assert list(found)[-2:] == ["zero.offload=states", "precision.master=split24"]
    assert not {"zero.offload=states"} & saved(*STATES, "zero.offload=states")[0].keys()


def test_a_cut_batch_is_told_with_all_that_must_be_typed():
    found, _ = saved("zero=stage3", "batch.global=8", "batch.accumulation=2")
    assert "batch.micro=1 batch.accumulation=4" in found


@pytest.mark.parametrize(
    ("words", "advised"),
    [
        (["checkpointing=none"], {"checkpointing=selective", "checkpointing=full"}),
        (["checkpointing=selective"], {"checkpointing=full"}),
        (["checkpointing=every_k"], {"checkpointing.others=selective", "checkpointing=full"}),
        (["checkpointing=every_k", "checkpointing.k=1"], set()),
        (["checkpointing=full"], set()),
    ],
)
def test_recomputation_that_saves_more_is_advised(words, advised):
    found, _ = saved("zero=stage1", *words)
    assert {word for word in found if word.startswith("checkpointing")} == advised


def test_options_add_up_until_they_are_enough():
    words = (*STATES, "checkpointing=selective")
    found, none = saved(*words)
    strongest = max((word for word in found if word.startswith("zero=")), key=found.get)
    assert none == saved(*words, missing=1 << 40)[1] == ()
    assert saved(*words, missing=found[strongest])[1] == (strongest,)
    _, two = saved(*words, missing=found[strongest] + 1)
    assert two == (strongest, "batch.micro=1")
    assert peak(*words) - peak(*words, *two) > found[strongest]


def test_what_cannot_be_predicted_is_named_without_figures(monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("needs values")

    monkeypatch.setattr(Simulator, "_predict", fail)
    found, together = saved("zero=stage1", missing=1)
    assert set(found.values()) == {None} and together == ()
    assert list(found)[0] == "zero=stage2"
