"""A profiled run on GPUs: kernels, peer copies found by their stream, and the memory snapshot."""

from __future__ import annotations

import json
import pickle

import pytest

from tests.commands import zerokit
from tests.gpu.process import WORLD, needs_gpu
from zerokit.record.trace import STREAM_MARK, _marked_streams, load_events, stream_of

pytestmark = needs_gpu
TRANSPORTS = ["collective", "peer"] if WORLD == 2 else ["collective"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_profiled_run(tmp_path, transport):
    result = zerokit(
        "debug=profile", "zero=stage3", "precision=bf16", "model.dim=512", "model.layers=4", "model.heads=8",
        "train.steps=9", "profile.after=5", "train.compile=false", f"zero.transport={transport}", "zero.min_unit=1",
        f"launch.nproc={WORLD}", "launch.device=cuda", f"hydra.run.dir={tmp_path / 'run'}",
        cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for rank in range(WORLD):
        events = load_events(tmp_path / "run" / "profile" / f"rank{rank}.json.gz")
        figures = json.loads((tmp_path / "run" / "profile" / f"rank{rank}.figures.json").read_text())
        assert figures["device"] == "gpu" and len(figures["kernels"]) == 10
        assert sum(event["name"] == STREAM_MARK and event["cat"] == "user_annotation" for event in events) == 2
        assert len(_marked_streams(events)) == 2, "the streams of gathers and of reductions"
        if WORLD == 2:
            assert 0 < figures["exposed_ms"] <= figures["communication_ms"] < figures["span_ms"]
        if transport == "peer":
            copies = [e for e in events if e.get("cat") == "gpu_memcpy" and stream_of(e) in _marked_streams(events)]
            assert copies, "weights travel by copies on the stream of gathers"
        snapshot = pickle.loads((tmp_path / "run" / "profile" / f"rank{rank}.memory.pickle").read_bytes())
        assert any(snapshot["device_traces"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    if summary["peak_tflops"] is not None:
        assert '"perf/mfu_pct"' in (tmp_path / "run" / "metrics.jsonl").read_text()
