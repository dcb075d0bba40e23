from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.commands import zerokit
from zerokit.cli.doctor import main
from zerokit.comm.probe import all_reduce_seconds
from zerokit.doctor import SECTIONS, examine, gpus
from zerokit.doctor import host as hosts
from zerokit.doctor.line import Line, bad
from zerokit.doctor.software import environment, software, wandb_state

GIB = 1 << 30


def test_the_command_shows_every_part_and_fits_the_terminal(tmp_path):
    result = zerokit("doctor", cwd=tmp_path, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    for text in ("Software", "PyTorch", "GPUs", "Host", "gloo", "processes sum 16 MiB", "Disk", "writes", "W&B"):
        assert text in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--fast"], ["a", "b"], ["--quick", "--x"]])
def test_a_wrong_word_is_one_line_and_status_2(words, tmp_path):
    result = zerokit("doctor", *words, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "Usage: zerokit doctor [--quick] [FOLDER]" in result.stderr


def test_every_finding_that_is_not_fine_has_a_remedy(tmp_path):
    for _, line in examine(tmp_path, quick=True):
        assert line.state == "ok" or line.remedy, line


def test_what_would_fail_gives_status_1_and_others_are_examined(monkeypatch, capsys):
    def broken(folder: Path, quick: bool):
        raise RuntimeError("No driver answers\nsecond line")
        yield

    monkeypatch.setitem(SECTIONS, "GPUs", broken)
    assert main(["--quick"]) == 1
    out = capsys.readouterr().out
    assert "x GPUs" in out and "No driver answers" in out and "second line" not in out and "Disk" in out


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (line,) = hosts.disk(tmp_path / "file" / "runs", quick=True)
    assert line.state == "bad" and "hydra.run.dir" in line.remedy


@pytest.mark.parametrize(("free", "state"), [(100 * GIB, "ok"), (GIB, "note")])
def test_the_free_space_of_the_disk(monkeypatch, tmp_path, free, state):
    monkeypatch.setattr(hosts.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    (line,) = hosts.disk(tmp_path, quick=True)
    assert line.state == state


def test_variables_of_a_launcher_are_bad(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "NCCL_P2P_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    assert [line for line in environment() if line.state == "bad"] == []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    found = list(environment())
    assert [line.state for line in found] == ["bad", "note"] and "NCCL_P2P_DISABLE=1" in found[1].finding


def test_the_state_of_wandb(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "NETRC", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert ["no key" in line.finding for line in wandb_state()] == [True]
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert [line.state for line in wandb_state()] == ["ok"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert ["WANDB_MODE=offline" in line.finding for line in wandb_state()] == [True]


def test_a_package_that_cannot_be_imported_is_a_finding(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    (line,) = wandb_state()
    assert line.state == "bad" and "cannot be imported" in line.finding and "tracker=none" in line.remedy


def test_without_a_compiler_there_is_a_remedy(monkeypatch):
    monkeypatch.setattr("zerokit.doctor.software.shutil.which", lambda name: None)
    (line,) = [line for line in software() if line.what == "C++ compiler"]
    assert line.state == "note" and line.remedy.endswith("install g++")


class FakeCuda:
    """Two GPUs, of which the first is in use by another process."""

    def is_available(self):
        return True

    def device_count(self):
        return 2

    def get_device_properties(self, index):
        return SimpleNamespace(name=["NVIDIA H200", "NVIDIA X1"][index])

    def mem_get_info(self, index):
        return ((10 if index == 0 else 140) * GIB, 141 * GIB)

    def is_bf16_supported(self, including_emulation):
        return True


def test_gpus_in_use_and_unknown_ones_are_named(monkeypatch):
    import torch

    monkeypatch.setattr(torch, "cuda", FakeCuda())
    lines = list(gpus.gpus())
    assert [(line.what, line.state) for line in lines] == [("GPU 0", "note"), ("GPU 1", "ok"), ("GPU 1", "note")]
    assert "another process" in lines[0].remedy and "train.peak_tflops" in lines[2].remedy


def test_a_gpu_without_a_cuda_build_is_bad(monkeypatch):
    monkeypatch.setattr(gpus.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    torch = SimpleNamespace(version=SimpleNamespace(cuda=None))
    assert gpus._none(torch).state == "bad"
    monkeypatch.setattr(gpus.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpus, "Path", lambda path: SimpleNamespace(exists=lambda: False))
    assert gpus._none(torch) == Line(
        "note", "GPU", "none: runs take two processes on the CPU", "large models need a GPU; estimate works without"
    )


def test_gloo_that_fails_says_why(monkeypatch):
    def broken(*_):
        raise RuntimeError("Traceback\nRuntimeError: no interface")

    monkeypatch.setattr("zerokit.comm.probe.all_reduce_seconds", broken)
    line = hosts._gloo()
    assert line == bad("gloo", "two processes cannot reach each other: RuntimeError: no interface", line.remedy)


def test_a_process_of_the_probe_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="no_backend"):
        all_reduce_seconds("no_backend", 2, 1024)


def test_advice_names_packages_that_pypi_has(monkeypatch):
    monkeypatch.setattr("zerokit.doctor.software.find_spec", lambda module: None)
    (line,) = [line for line in software() if line.what == "extras"]
    assert "zerokit" not in line.remedy
    for name in ("tensorboard", "wandb-workspaces", "hydra-submitit-launcher", "submitit", "optuna"):
        assert f" {name}" in line.remedy, line.remedy
