"""Small names of DeepSpeed's engine: values of its configuration, and calls that have little to do here."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from zerokit.compat.deepspeed.errors import AbsentError, MisuseError
from zerokit.compat.deepspeed.parts import EngineParts
from zerokit.config.batch import resolve_batch
from zerokit.config.schema import BatchConfig


class SmallNames:
    """What stands beside the training step."""

    mpu = None
    mp_world_size = 1

    @property
    def data_parallel_group(self: EngineParts) -> Any:
        """The processes among which the state is divided: all."""
        return dist.group.WORLD

    seq_data_parallel_group = data_parallel_group

    def _given(self, key: str, default: Any) -> Any:
        """A value of the configuration as it was given."""
        value: Any = self._setup.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return default if value is None else value

    def steps_per_print(self) -> float | None:
        """Steps between two lines; None without any."""
        return self._setup.script.get("steps_per_print")

    def wall_clock_breakdown(self) -> bool:
        """What the configuration says."""
        return self._given("wall_clock_breakdown", False)

    def memory_breakdown(self) -> bool:
        """What the configuration says; `engine.engine.memory()` counts."""
        return self._given("memory_breakdown", False)

    def dump_state(self) -> bool:
        """What the configuration says."""
        return self._setup.script["dump_state"]

    def dynamic_loss_scale(self) -> bool:
        """Whether the loss scale adapts itself."""
        return self.optimizer is not None and self.optimizer.dynamic_loss_scale

    def optimizer_name(self) -> str | None:
        """The type that the configuration names, in lower case."""
        name = self._given("optimizer.type", None)
        return None if name is None else name.lower()

    def scheduler_name(self) -> str | None:
        """The type that the configuration names."""
        return self._given("scheduler.type", None)

    def zero_offload_param(self) -> None:
        """Weights stay on the device."""

    def zero_cpu_offload(self) -> bool:
        """Whether the optimizer's states lie on the host."""
        return self._setup.typed.zero.offload == "states"

    def zero_has_nvme_offload(self) -> bool:
        """Nothing is kept on disk."""
        return False

    def managed_gradient_accumulation(self) -> bool:
        """Whether the engine counts micro-batches."""
        return self._setup.script["managed_gradient_accumulation"]

    def checkpoint_tag_validation_enabled(self) -> bool:
        """Whether the tags of the ranks are compared."""
        return self._setup.script["checkpoint.tag_validation"] != "ignore"

    def torch_autocast_enabled(self) -> bool:
        """Weights are stored in the compute format instead."""
        return False

    @property
    def gradient_average(self) -> bool:
        """Whether gradients are means over the processes."""
        return self._setup.script["gradient_allreduce_op"] == "mean"

    @property
    def basic_optimizer(self) -> Any:
        """The script's optimizer, else the engine's own."""
        return None if self.optimizer is None else self.optimizer.optimizer

    def get_type(self) -> list[str | None]:
        """The names that the parameter groups have, None where they have none."""
        return [group.get("type") for group in self.optimizer.param_groups]

    def get_batch_info(self) -> tuple[int, int, int]:
        """Samples per step, samples per micro-batch, micro-batches per step."""
        batch = self._batch
        return batch.global_, batch.micro, batch.accumulation

    def set_train_micro_batch_size(self, micro_batch_size: int) -> None:
        """Another micro-batch with as many of them, from the next step on.

        Raises:
            MisuseError: in the middle of a step.
        """
        if self.engine.micro_batches:
            raise MisuseError("set_train_micro_batch_size() in the middle of a step: call it after the boundary.")
        self._batch = resolve_batch(BatchConfig(None, micro_batch_size, self._batch.accumulation), self.world_size)

    def empty_partition_cache(self) -> None:
        """Whole weights of divided parameters are forgotten: they lie in slots, which the next pass fills again."""
        self.engine.gatherer.release_all()

    def allreduce_gradients(self, bucket_size: int | None = None) -> None:
        """Nothing: backward sums the gradients of a step's last micro-batch over the processes."""

    def load_module_state_dict(self, checkpoint: Any, strict: bool = True, custom_load_fn: None = None) -> None:
        """Take whole weights by name from a checkpoint's "module", the same on every rank.

        Raises:
            ValueError: a name is missing or unknown (unless `strict` is false), or a shape is another.
        """
        if custom_load_fn is not None:
            raise MisuseError("custom_load_fn: load weights yourself with engine.engine.load_full_state_dict(weights).")
        self.engine.load_full_state_dict(checkpoint["module"], strict)

    def _absent(self, name: str, instead: str) -> AbsentError:
        return AbsentError(f"engine.{name} is not there: {instead}.")

    def train_batch(self, *_: Any, **__: Any) -> Any:
        """Not there: only DeepSpeed's pipeline engine has it."""
        raise self._absent("train_batch", "there are no pipeline stages; call forward, backward and step")

    def eval_batch(self, *_: Any, **__: Any) -> Any:
        """Not there: only DeepSpeed's pipeline engine has it."""
        raise self._absent("eval_batch", "there are no pipeline stages; call the engine under torch.no_grad()")

    def offload_states(self, *_: Any, **__: Any) -> None:
        """Not there."""
        raise self._absent("offload_states", "offload_optimizer.device=cpu keeps states on the host for good")

    def reload_states(self, *_: Any, **__: Any) -> None:
        """Nothing: no states have left."""
