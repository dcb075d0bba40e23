"""The function of the job, as Hydra calls it."""

from __future__ import annotations

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from zerokit.config import compose
from zerokit.sweep.task import Task


def test_ctrl_c_while_the_configuration_is_read_is_ctrl_c(monkeypatch, tmp_path):
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compose, "to_config", interrupt)
    job = OmegaConf.create({"runtime": {"output_dir": str(tmp_path)}, "overrides": {"task": []}})
    monkeypatch.setattr(HydraConfig, "get", lambda: job)
    with pytest.raises(KeyboardInterrupt):
        Task(["zerokit"], many=False)(OmegaConf.create())
