"""A GPU that runs out of memory: the error says what was held, and what to type."""

from __future__ import annotations

import json

from tests.commands import zerokit
from tests.gpu.process import needs_gpu

pytestmark = needs_gpu


def test_the_error_says_what_was_held(tmp_path):
    result = zerokit(
        "model=llama_350m", "data=synthetic", "data.seq_len=2048", "batch.global=1024", "batch.micro=1024",
        "zero=stage2", "precision=bf16", "launch.nproc=1", "launch.device=cuda", "train.steps=2", "train.compile=false",
        "tracker=none", "hydra.run.dir=run", cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert result.returncode == 1
    error = json.loads((tmp_path / "run" / "summary.json").read_text())["error"]
    assert "Out of memory: " in error and "were asked for" in error and "activations and the rest" in error
    assert "optimizer states" in error and "GiB" in error
    for words in ("batch.micro=512", "checkpointing=selective", "checkpointing=full"):
        assert words in result.stderr
    assert "Traceback" in result.stderr and "Tried to allocate" in (tmp_path / "run/logs/rank0.log").read_text()
