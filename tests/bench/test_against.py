"""Another checkout runs beside this one, in turn, and both are compared."""

from __future__ import annotations

import json
import shutil

import pytest

from bench import compare, launch
from tests.commands import ROOT

RUN = ("--cases", "tiny", "--device", "cpu", "--nproc", "1", "--commit", "abc", "--precision", "fp32")
FIGURES = {"tokens_per_step": 64, "flops_per_token": 1.0, "losses": [3.0, 2.0], "startup_s": 1.0, "warmup_s": 1.0}


@pytest.fixture
def other(tmp_path):
    """A copy of this checkout, whose zerokit leaves a line in a file when it is imported."""
    root = tmp_path / "old"
    for name in ("zerokit", "bench", "conf"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    with (root / "zerokit/__init__.py").open("a") as file:
        file.write('\nwith open(__import__("os").environ["WITNESS"], "a") as file:\n    file.write("imported\\n")\n')
    return root


def test_the_other_checkout_runs_its_own_code(other, tmp_path, monkeypatch):
    monkeypatch.setenv("WITNESS", str(tmp_path / "witness"))
    words = ("--systems", "zerokit-3", "--steps", "2", "--warmup", "1", "--rounds", "1", "--out", str(tmp_path / "out"))
    [path] = compare.main([*RUN, *words, "--against", str(other), "--against-commit", "def"])
    values = json.loads(path.read_text())
    assert (tmp_path / "witness").read_text() == "imported\n", "once: this checkout's zerokit leaves none"
    assert [(run["system"], run["status"]) for run in values["runs"]] == [
        ("@old/zerokit-3", "ok"),
        ("zerokit-3", "ok"),
    ]
    assert values["runs"][0]["losses"] == values["runs"][1]["losses"]
    assert str(other) not in values["facts"]["command"] and values["against"]["commit"] == "def"


def test_runs_take_turns_and_medians_are_compared(other, tmp_path, monkeypatch):
    times = {str(other): iter([10.0, 12.0, 10.0]), str(ROOT): iter([9.0, 9.0, 11.0])}
    order = []

    def run(spec, nproc, timeout, root):
        order.append((spec["system"], "old" if root == str(other) else "new"))
        step = next(times[root]) if spec["system"] == "zerokit-3" else 5.0
        memory = {"allocated_gib": 8.0 if root == str(other) else 6.0}
        return {"status": "ok", "step_ms": [step, step], **FIGURES, **memory}

    monkeypatch.setattr(launch, "run", run)
    words = ("--systems", "zerokit-3", "floor", "--rounds", "3", "--out", str(tmp_path / "out"))
    [path] = compare.main([*RUN, *words, "--against", str(other)])
    assert order == [("zerokit-3", "old"), ("zerokit-3", "new"), ("floor", "new")] * 3
    values = json.loads(path.read_text())
    ratio = values["ratios"]["zerokit-3"]
    assert ratio["step_ms"] == pytest.approx(9.0 / 10.0) and ratio["allocated_gib"] == pytest.approx(0.75)
    assert ratio["rounds"] == pytest.approx([0.9, 0.75, 1.1])
    assert values["against"] == {"prefix": "@old/", "commit": "unknown"}, "a copy has no commit of its own"
    last = path.with_suffix(".md").read_text().splitlines()[-1]
    assert last == "- zerokit-3: step 0.900 (by rounds 0.900, 0.750, 1.100); allocated 0.750"


def test_a_copy_within_a_checkout_has_not_its_commit():
    inside = ROOT / "bench"
    assert compare.machine.commit(inside) == "unknown"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--against", "none"), "there is no zerokit/__init__.py in none"),
        (("--against", str(ROOT)), "this is the checkout that runs"),
    ],
)
def test_a_wrong_checkout_is_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        compare.arguments([*RUN, *words])
    assert message in capsys.readouterr().err


def test_there_must_be_something_to_compare(other, capsys):
    with pytest.raises(SystemExit):
        compare.arguments([*RUN, "--systems", "floor", "--against", str(other)])
    assert "expected a system of zerokit among --systems; got floor." in capsys.readouterr().err
