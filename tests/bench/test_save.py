"""What a save costs, measured on a tiny case."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.commands import ROOT, environment


def test_a_save_is_measured(tmp_path):
    words = ("--case", "tiny", "--every", "2", "--rounds", "1", "--warmup", "1", "--device", "cpu", "--nproc", "2")
    done = subprocess.run(
        [sys.executable, "-m", "bench.save", *words, "--folder", str(tmp_path)], cwd=ROOT, env=environment(),
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert found["gb_per_rank"] > 0 and found["write_s"] > 0 and "digest_pct_of_write" in found
    assert list(tmp_path.iterdir()) == [], "what was written for the measurement is removed"
