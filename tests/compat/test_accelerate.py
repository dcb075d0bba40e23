"""accelerate with DeepSpeed's plugin trains as accelerate alone, on two ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.commands import environment
from zerokit.compat.deepspeed import install

SCRIPT = Path(__file__).with_name("accelerated.py")


def test_losses_states_and_weights_are_those_without_deepspeed(tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setattr(install, "site", lambda: site)
    install.main([])
    own = environment()
    own["PYTHONPATH"] = f"{site}:{own.get('PYTHONPATH', '')}"
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(SCRIPT), str(tmp_path)]
    result = subprocess.run(words, env=own, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr
    made = json.loads(result.stdout.splitlines()[-1])
    plain = made.pop("plain")
    assert plain["again"] and plain["losses"][-1] < plain["losses"][0]
    for name, found in made.items():
        assert found["losses"] == pytest.approx(plain["losses"], abs=1e-5), name
        assert found["again"] and found["total"] == pytest.approx(plain["total"], abs=1e-4)
        (file,) = (tmp_path / name / "model").glob("*.safetensors")
        with safe_open(file, "pt") as weights:
            total = sum(float(weights.get_tensor(key).double().sum()) for key in sorted(weights.keys()))
        assert total == pytest.approx(plain["total"], abs=1e-4)
