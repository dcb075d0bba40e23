"""accelerate with DeepSpeed's plugin, and transformers' Trainer, train as without DeepSpeed, on two ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.commands import environment
from zerokit.compat.deepspeed import install


def made_by(script: str, folder: Path, monkeypatch) -> dict:
    """What a script prints where `import deepspeed` is zerokit."""
    site = folder / "site"
    site.mkdir()
    monkeypatch.setattr(install, "site", lambda: site)
    install.main([])
    own = environment()
    own["PYTHONPATH"] = f"{site}:{own.get('PYTHONPATH', '')}"
    words = ["-m", "torch.distributed.run", "--nproc_per_node", "2", str(Path(__file__).with_name(script)), str(folder)]
    result = subprocess.run([sys.executable, *words], env=own, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_losses_states_and_weights_are_those_without_deepspeed(tmp_path, monkeypatch):
    made = made_by("accelerated.py", tmp_path, monkeypatch)
    plain = made.pop("plain")
    assert plain["again"] and plain["losses"][-1] < plain["losses"][0]
    for name, found in made.items():
        assert found["losses"] == pytest.approx(plain["losses"], abs=1e-5), name
        assert found["again"] and found["total"] == pytest.approx(plain["total"], abs=1e-4)
        (file,) = (tmp_path / name / "model").glob("*.safetensors")
        with safe_open(file, "pt") as weights:
            total = sum(float(weights.get_tensor(key).double().sum()) for key in sorted(weights.keys()))
        assert total == pytest.approx(plain["total"], abs=1e-4)


def test_trainer_trains_evaluates_and_resumes_as_without_deepspeed(tmp_path, monkeypatch):
    made = made_by("trainer.py", tmp_path, monkeypatch)
    plain = made.pop("plain")
    assert len(plain) == 7 and len(made) == 4
    for name, losses in made.items():
        assert losses == pytest.approx(plain, abs=1e-5), name
