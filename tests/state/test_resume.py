"""How a state differs from the run that wants to go on from it, in words."""

from __future__ import annotations

from pathlib import Path

from zerokit.state.resume import differences, refusal

SAVED = {"model.dim": 16, "model.dropout": 0.0, "optimizer.lr": 0.1}
NOW = {"model.dim": 32, "model.dropout": 0.1, "optimizer.lr": 0.2}


def test_what_is_allowed_is_not_told_but_for_what_nothing_covers():
    assert differences(SAVED, NOW, ["model", "optimizer"]) == []
    lines = differences(SAVED, NOW, ["model"])
    assert lines == ["optimizer.lr: 0.1 in the state, 0.2 here", "model.dim: 16 in the state, 32 here"]
    assert "allow_changed" not in refusal(Path("state"), lines)  # weights of other shapes cannot be taken
    assert "allow_changed=[optimizer.lr]" in refusal(
        Path("state"), differences(SAVED, NOW | {"model.dim": 16}, ["model"])
    )
