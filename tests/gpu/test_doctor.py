"""The doctor on a machine with GPUs: memory, links with their bandwidth, NCCL."""

from __future__ import annotations

import re

from tests.commands import zerokit
from tests.gpu.process import GPUS, needs_gpu

pytestmark = needs_gpu


def test_gpus_and_links_are_measured(tmp_path):
    result = zerokit("doctor", cwd=tmp_path, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(re.findall(r"GPU \d +\S.*free of", result.stdout)) == GPUS
    assert re.search(r"\+ host to GPU 0 +[\d.]+ GiB/s", result.stdout)
    pairs = re.findall(r"GPU (\d) to (\d) +([\d.]+) GiB/s", result.stdout)
    assert len(pairs) == GPUS * (GPUS - 1) // 2 and all(float(speed) > 1 for *_, speed in pairs)
    assert ("GPUs sum 256 MiB" in result.stdout) == (GPUS > 1)
