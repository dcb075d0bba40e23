"""`import deepspeed` as zerokit's, in a folder of its own; accelerate and Trainer on it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.commands import environment
from zerokit.compat.deepspeed import install

SHOW = """
import sys
import deepspeed
from deepspeed.runtime.lr_schedules import WarmupLR
from deepspeed.ops.adam import FusedAdam
import deepspeed.utils.zero_to_fp32, deepspeed.comm
from importlib.metadata import version
from accelerate.utils import is_deepspeed_available
from transformers.integrations import is_deepspeed_available as known
import zerokit.compat.deepspeed.lr_schedules as own
assert WarmupLR is own.WarmupLR and deepspeed.ops.adam.FusedAdam is FusedAdam
assert sys.modules["deepspeed.runtime.lr_schedules"] is sys.modules["zerokit.compat.deepspeed.runtime.lr_schedules"]
try:
    import deepspeed.nothing
except ModuleNotFoundError as error:
    print(error)
print(version("deepspeed"), deepspeed.__version__, is_deepspeed_available(), known(), deepspeed.zero.Init.__module__)
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "site", lambda: tmp_path)
    return tmp_path


def run(folder, text: str, *words: str) -> subprocess.CompletedProcess:
    (folder / "script.py").write_text(text)
    own = environment()
    own["PYTHONPATH"] = f"{folder}:{own.get('PYTHONPATH', '')}"
    command = [sys.executable, *words, str(folder / "script.py")]
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=300)


def test_deepspeed_is_zerokit_until_it_is_undone(site, capsys):
    install.main([])
    install.main([])  # again, to no effect
    result = run(site, SHOW)
    assert result.returncode == 0, result.stderr
    missing, facts = result.stdout.splitlines()
    assert "deepspeed.nothing" in missing
    assert facts == "0.19.0 0.19.0 True True zerokit.compat.deepspeed.zero"
    assert "deepspeed is zerokit's here" in result.stderr
    install.main(["--undo"])
    install.main(["--undo"])
    assert [path.name for path in site.iterdir()] == ["script.py"]
    assert "there was nothing to undo" in capsys.readouterr().out


def test_deepspeed_itself_is_left_alone(site, capsys):
    (site / "deepspeed").mkdir()
    (site / "deepspeed" / "__init__.py").write_text("mine = 1\n")
    for words in ([], ["--undo"]):
        with pytest.raises(SystemExit, match="2"):
            install.main(words)
    assert "DeepSpeed itself is installed here" in capsys.readouterr().err
    assert (site / "deepspeed" / "__init__.py").read_text() == "mine = 1\n"
