"""DeepSpeed's engine as scripts know it, on zerokit's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zerokit.compat.deepspeed import comm, states
from zerokit.compat.deepspeed.dataloader import DeepSpeedDataLoader
from zerokit.compat.deepspeed.errors import MisuseError
from zerokit.compat.deepspeed.log import tell, warn
from zerokit.compat.deepspeed.monitor import Monitor
from zerokit.compat.deepspeed.names import SmallNames
from zerokit.compat.deepspeed.optimizer import DeepSpeedOptimizer
from zerokit.compat.deepspeed.zero import forget
from zerokit.config.batch import Batch, resolve_batch
from zerokit.config.schema import BatchConfig, Config
from zerokit.train.assemble import compile_blocks
from zerokit.train.client import mark_stepped
from zerokit.zero.engine import Engine
from zerokit.zero.model.views import weakly

CHECK_EVERY = 100
"""Steps between two looks at whether steps are being skipped for good, where nothing else asks for it."""


@dataclass(frozen=True)
class Setup:
    """What an engine is made from, beside the model.

    config: DeepSpeed's, as given. typed: zerokit's. script: values of the keys that act here. collate_fn: for loaders.
    """

    config: Mapping[str, Any]
    typed: Config
    batch: Batch
    script: Mapping[str, Any]
    collate_fn: Callable | None = None


class DeepSpeedEngine(SmallNames, nn.Module):
    """`loss = engine(x); engine.backward(loss); engine.step()` for every micro-batch; `step` acts at the boundary.

    engine: zerokit's. optimizer: its groups as scripts see them, None without one. lr_scheduler: stepped after every
    step that was taken. micro_steps: calls of `step`; global_steps: boundaries. Unknown attributes are the model's.
    """

    def __init__(self, module: nn.Module, engine: Engine, setup: Setup):
        super().__init__()
        self.module = module
        self.engine, self._setup, self._batch = engine, setup, setup.batch
        self.optimizer: DeepSpeedOptimizer | None = None
        self.lr_scheduler: Any = None
        self.training_dataloader: DeepSpeedDataLoader | None = None
        self.micro_steps = self.global_steps = self.global_samples = 0
        self._boundary: bool | None = None
        self._destroyed = False
        self._inside_no_sync = self._in_step = False
        self._applied: bool | None = False  # None: the device knows
        self._skipped_before = torch.zeros((), dtype=torch.float64, device=engine.device)
        self._monitor = Monitor(setup.typed, setup.script.get("steps_per_print"), setup.config)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            module = self.__dict__.get("_modules", {}).get("module")
            if module is None or not hasattr(module, name):
                raise AttributeError(
                    f"Neither the engine nor its {type(module).__name__} has '{name}'; docs/deepspeed.md lists what "
                    "the engine has."
                ) from None
            return getattr(module, name)

    # -- a training step ---------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; floating-point inputs are cast to the format of its weights."""
        output = self.engine(*args, **kwargs)
        self.engine.micro_batch.usual = weakly(self._usual, default=(None, None))  # the call may have rebuilt it
        return output

    def backward(self, loss: Tensor, retain_graph: bool = False, scale_wrt_gas: bool = True) -> Tensor:
        """Add the gradients of a micro-batch's loss, divided by the accumulation steps unless `scale_wrt_gas` is false.

        Returns the loss divided likewise.

        Raises:
            MisuseError: there is no optimizer, `loss` is no scalar, or the boundary has been passed without `step()`.
        """
        self._check_loss("backward", loss)
        share, last = self._usual()
        share = share if scale_wrt_gas else 1.0
        self.engine.backward(loss, last=last, share=share, retain_graph=retain_graph)
        self._monitor.add(loss.detach())
        return loss * share

    def scale(self, loss: Tensor) -> Tensor:
        """What `loss.backward()` may be called of in place of `engine.backward(loss)`: needed in fp16.

        Raises:
            MisuseError: there is no optimizer, or `loss` is no scalar.
        """
        self._check_loss("scale", loss)
        return self.engine.scale(loss, share=self._usual()[0])

    def _check_loss(self, name: str, loss: Any) -> None:
        if self.optimizer is None:
            raise MisuseError(f"engine.{name} needs an optimizer: give initialize() one, or write one into the JSON.")
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise MisuseError(f"engine.{name} expects a scalar loss, got {got}; reduce it with .mean().")

    def _usual(self) -> tuple[float, bool]:
        """What a micro-batch counts in the step, and whether the present one is its last."""
        managed = self._setup.script["managed_gradient_accumulation"]
        last = managed and not self._inside_no_sync and self.is_gradient_accumulation_boundary()
        return 1 / self.gradient_accumulation_steps(), last

    def step(self, lr_kwargs: Mapping[str, Any] | None = None) -> None:
        """At the boundary: clip, update, zero the gradients, step the scheduler unless the update was skipped.

        Raises:
            RuntimeError: inside `no_sync`. FloatingPointError: too many steps in a row were skipped.
        """
        if self._inside_no_sync:
            raise MisuseError("engine.step() inside engine.no_sync(): leave the block before the boundary.")
        self._applied, self._in_step = False, True
        try:
            if self.is_gradient_accumulation_boundary():
                self._update(lr_kwargs or {})
        finally:
            self._in_step = False
        self.micro_steps += 1

    def _update(self, lr_kwargs: Mapping[str, Any]) -> None:
        if self.optimizer is None:
            raise MisuseError("engine.step needs an optimizer: give initialize() one, or write one into the JSON.")
        self.optimizer.apply()
        self._skipped_before.copy_(self.engine.steps_skipped)
        self.engine.step()
        self._applied = None
        for one in (self.optimizer, self.optimizer.optimizer):
            mark_stepped(one)
        self.global_steps += 1
        self.global_samples += self._batch.global_
        if self.lr_scheduler is not None:
            # Only the device knows whether the step was skipped, and the schedule must not go on if it was.
            if self.was_step_applied():
                self.lr_scheduler.step(**lr_kwargs)
            else:
                self.engine.check()
        elif self.global_steps % CHECK_EVERY == 0:
            self.engine.check()
        self._monitor.report(self)

    def is_gradient_accumulation_boundary(self) -> bool:
        """Whether the present micro-batch ends a step."""
        if self._boundary is not None:
            return self._boundary
        if not self._setup.script["managed_gradient_accumulation"]:
            return self._in_step
        return (self.micro_steps + 1) % self.gradient_accumulation_steps() == 0

    def set_gradient_accumulation_boundary(self, is_boundary: bool | None) -> None:
        """Say for the next micro-batches whether they end a step, instead of counting; None counts again."""
        if not self._setup.script["managed_gradient_accumulation"]:
            raise MisuseError("managed_gradient_accumulation is false: every step() is the boundary.")
        self._boundary = is_boundary

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes inside only accumulate, at every stage; the first outside may end the step.

        Where gradients are divided, each pass is still reduced into the shards: nothing whole is kept.
        """
        if self._inside_no_sync:
            raise MisuseError("engine.no_sync() inside engine.no_sync().")
        self._inside_no_sync = True
        try:
            yield
        finally:
            self._inside_no_sync = False

    def was_step_applied(self) -> bool:
        """Whether the last `step()` changed weights. Waits for the device."""
        if self._applied is None:
            self._applied = not bool(self.engine.steps_skipped > self._skipped_before)
        return self._applied

    @property
    def overflow(self) -> bool:
        """Whether the last update was skipped because a gradient was not finite. Waits for the device."""
        return self.global_steps > 0 and bool(self.engine.steps_skipped > self._skipped_before)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the micro-batches since the last step."""
        if self.engine.micro_batches:
            warn(
                f"zero_grad() drops the gradients of {self.engine.micro_batches} micro-batches before the boundary of "
                f"{self.gradient_accumulation_steps()}; step() zeroes them by itself."
            )
        self.engine.zero_grad()

    # -- facts -------------------------------------------------------------------------------------------------------

    def train_batch_size(self) -> int:
        """Samples per step over all processes."""
        return self._batch.global_

    def train_micro_batch_size_per_gpu(self) -> int:
        """Samples per forward pass of a process."""
        return self._batch.micro

    def gradient_accumulation_steps(self) -> int:
        """Micro-batches per step."""
        return self._batch.accumulation

    def set_train_batch_size(self, train_batch_size: int) -> None:
        """Another batch size with the same micro-batches, from the next step on.

        Raises:
            ConfigError: it cannot be divided. RuntimeError: in the middle of a step.
        """
        if self.engine.micro_batches:
            raise RuntimeError("set_train_batch_size() in the middle of a step: call it after the boundary.")
        self._batch = resolve_batch(BatchConfig(train_batch_size, self._batch.micro, None), self.world_size)
        self.micro_steps = self.global_steps * self._batch.accumulation

    @property
    def global_rank(self) -> int:
        """This process's rank."""
        return self.engine.comm.rank

    @property
    def local_rank(self) -> int:
        """This process's rank on its host."""
        return comm.get_local_rank()

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.engine.comm.world

    dp_world_size = world_size

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.engine.device

    @property
    def skipped_steps(self) -> int:
        """Steps skipped so far. Waits for the device."""
        return int(self.engine.steps_skipped)

    @property
    def config(self) -> Mapping[str, Any]:
        """DeepSpeed's configuration, as it was given."""
        return self._setup.config

    def get_global_grad_norm(self) -> float | None:
        """Norm of the last step's gradients before clipping; None before the first. Waits for the device."""
        return float(self.engine.grad_norm) if self.global_steps else None

    def get_lr(self) -> list[float]:
        """The learning rate of each parameter group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def get_mom(self) -> list[Any]:
        """The momentum or betas of each parameter group; 0 without."""
        return [group.get("betas", group.get("momentum", 0.0)) for group in self.optimizer.param_groups]

    @property
    def loss_scale(self) -> float:
        """The present loss scale; 1 without one. Waits for the device."""
        return 1.0 if self.optimizer is None else self.optimizer.loss_scale

    def zero_optimization_stage(self) -> int:
        """The stage of the JSON."""
        return self._setup.typed.zero.stage

    def zero_optimization(self) -> bool:
        """Whether anything is divided."""
        return self.zero_optimization_stage() > 0

    def zero_optimization_partition_gradients(self) -> bool:
        """Whether gradients are divided."""
        return self.zero_optimization_stage() > 1

    def zero_optimization_partition_weights(self) -> bool:
        """Whether weights are divided."""
        return self.zero_optimization_stage() > 2

    def zero_gather_16bit_weights_on_model_save(self) -> bool:
        """Always: `save_16bit_model` never saves less than all weights."""
        return True

    def gradient_clipping(self) -> float:
        """Largest norm of the gradients; 0 does not clip."""
        return self.engine.clip_norm or 0.0

    def fp16_enabled(self) -> bool:
        """Whether weights are fp16."""
        return self.engine.numerics.compute is torch.float16

    def bfloat16_enabled(self) -> bool:
        """Whether weights are bf16."""
        return self.engine.numerics.compute is torch.bfloat16

    # -- data, compiling, end ----------------------------------------------------------------------------------------

    def deepspeed_io(self, dataset: Any, batch_size: int | None = None, route: str = "train", pin_memory: bool = True,
                     data_sampler: Any = None, collate_fn: Callable | None = None,
                     num_local_io_workers: int | None = None) -> DeepSpeedDataLoader:  # fmt: skip
        """A loader of this rank's micro-batches; shuffled on the route "train"."""
        return DeepSpeedDataLoader(
            dataset,
            batch_size or self.train_micro_batch_size_per_gpu(),
            self.global_rank,
            self.world_size,
            collate_fn=collate_fn or self._setup.collate_fn,
            sampler=data_sampler,
            shuffle=route == "train",
            drop_last=self._setup.script["dataloader_drop_last"],
            num_workers=num_local_io_workers,
            pin_memory=pin_memory,
        )

    def compile(self, backend: Any = "inductor", compile_kwargs: Mapping[str, Any] | None = None,
                schedule: Any = None, **_: Any) -> None:  # fmt: skip
        """Compile the model's blocks; collectives stay outside."""
        compile_blocks(self.module, self._setup.typed.zero.units, backend, **(compile_kwargs or {}))
        self._compiled = True

    @property
    def is_compiled(self) -> bool:
        """Whether `compile` has been called, or the JSON asked for it."""
        return getattr(self, "_compiled", bool(self._setup.typed.train.compile))

    def destroy(self) -> None:
        """Give the model back with whole fp32 weights of its own, free the memory, and end the tracker's run. Every
        rank calls it; the engine is of no use any more."""
        self._monitor.finish(self)
        if not self._destroyed:
            self._destroyed = True
            forget(self.engine)
            self.engine.detach()

    # -- states ------------------------------------------------------------------------------------------------------

    def save_checkpoint(self, save_dir: str | Path, tag: Any = None, client_state: Mapping[str, Any] | None = None,
                        save_latest: bool = True, exclude_frozen_parameters: bool = False) -> bool:  # fmt: skip
        """Save the training as the folder `save_dir/tag` (by default global_stepN); `latest` names it.

        Every rank calls it. It holds weights, optimizer, scheduler, counters, random generators and `client_state`
        (numbers, texts, lists, dicts and tensors; rank 0's). Any stage and any number of ranks load it.
        """
        if exclude_frozen_parameters:
            tell("exclude_frozen_parameters: a state holds them all, so that it is whole.")
        folder, name = states.folder_of("save_dir", save_dir), f"global_step{self.global_steps}" if tag is None else tag
        name = self._agreed_tag(str(name))
        states.save(self, folder, name, client_state or {}, save_latest)
        return True

    def _agreed_tag(self, tag: str) -> str:
        """Rank 0's tag; what the others say is looked at as `checkpoint.tag_validation` says."""
        tags = self.engine.state.exchange.gather(tag)
        odd = next((rank for rank, other in enumerate(tags) if other != tags[0]), None)
        if odd is not None and self._setup.script["checkpoint.tag_validation"] != "ignore":
            told = f"save_checkpoint: rank {odd} saves '{tags[odd]}', rank 0 '{tags[0]}'; give all ranks one tag."
            if self._setup.script["checkpoint.tag_validation"] == "fail":
                raise MisuseError(told)
            warn(told)
        return tags[0]

    def load_checkpoint(self, load_dir: str | Path, tag: Any = None, load_module_strict: bool = True,
                        load_optimizer_states: bool = True, load_lr_scheduler_states: bool = True,
                        load_module_only: bool = False,
                        custom_load_fn: None = None) -> tuple[str | None, Any]:  # fmt: skip
        """Load what `save_checkpoint` saved, at whatever stage and number of ranks; by default what `latest` names.

        Returns (path, client_state), (None, None) where there is no `latest`.
        """
        if custom_load_fn is not None:
            raise ValueError("custom_load_fn: load weights yourself with engine.engine.load_full_state_dict(weights).")
        parts = states.Parts(
            strict=load_module_strict,
            optimizer=load_optimizer_states and not load_module_only,
            scheduler=load_lr_scheduler_states and not load_module_only,
            counters=not load_module_only,
        )
        return states.load(self, states.folder_of("load_dir", load_dir), None if tag is None else str(tag), parts)

    def save_16bit_model(self, save_dir: str | Path, save_filename: str = "pytorch_model.bin",
                         exclude_frozen_parameters: bool = False) -> bool:  # fmt: skip
        """Save the whole weights in their compute format, and the buffers, as one file, .bin or .safetensors.

        Every rank calls it; it gathers at every stage.
        """
        states.save_model(self, states.folder_of("save_dir", save_dir) / save_filename, exclude_frozen_parameters)
        return True

    save_fp16_model = save_16bit_model

    def _consolidated_16bit_state_dict(self, exclude_frozen_parameters: bool = False) -> dict[str, Tensor] | None:
        """The whole compute weights and buffers on the CPU of rank 0, None on the others. Every rank calls it."""
        found = states.whole_model(self, exclude_frozen_parameters)
        return found if self.global_rank == 0 else None

    _zero3_consolidated_16bit_state_dict = _consolidated_16bit_state_dict

    def module_state_dict(self, destination: Any = None, prefix: str = "", keep_vars: bool = False,
                          exclude_frozen_parameters: bool = False) -> dict[str, Tensor]:  # fmt: skip
        """The whole compute weights and buffers on the CPU of every rank. Every rank calls it."""
        found = states.whole_model(self, exclude_frozen_parameters, everywhere=True)
        return {prefix + name: value for name, value in found.items()}
