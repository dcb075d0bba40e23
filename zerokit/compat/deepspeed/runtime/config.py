"""`deepspeed.runtime.config`: a configuration that is read and checked without an engine."""

from __future__ import annotations

from typing import Any

from zerokit.compat.deepspeed import comm
from zerokit.compat.deepspeed.source import load
from zerokit.compat.deepspeed.translation import translate
from zerokit.config.batch import resolve_batch
from zerokit.config.errors import ConfigError
from zerokit.config.schema import BatchConfig

DeepSpeedConfigError = ConfigError


class DeepSpeedConfig:
    """A dict, path or base64 as DeepSpeed's tools read it.

    Raises:
        ConfigError: a key or value is wrong, or the batch cannot be divided.
    """

    def __init__(self, config: Any, mpu: Any = None, mesh_device: Any = None):
        self._param_dict = load(config)
        settings = translate(self._param_dict).settings
        sizes = (settings[key] for key in ("batch.global", "batch.micro", "batch.accumulation"))
        batch = resolve_batch(BatchConfig(*sizes), comm.get_world_size())
        self.train_batch_size, self.train_micro_batch_size_per_gpu = batch.global_, batch.micro
        self.gradient_accumulation_steps = batch.accumulation
        self.zero_optimization_stage = int(settings["zero"].removeprefix("stage"))
        self.zero_enabled = self.zero_optimization_stage > 0
        self.gradient_clipping = settings["train.clip_norm"] or 0.0
        self.fp16_enabled, self.bfloat16_enabled = (settings["precision"] == name for name in ("fp16", "bf16"))
