"""The engine: a model whose training state is divided among ranks, and the three calls of a training step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zerokit.comm import Communicator
from zerokit.zero.access.evaluation import EvaluationWeights
from zerokit.zero.access.persist import EngineState
from zerokit.zero.access.read import WeightReader
from zerokit.zero.access.rebuild import Parked, rebuild
from zerokit.zero.access.values import ParameterValues
from zerokit.zero.gather import Gatherer
from zerokit.zero.graph import CapturedStep
from zerokit.zero.materialize import Materializer
from zerokit.zero.micro_batches import MicroBatches
from zerokit.zero.model import passes
from zerokit.zero.model.attach import Attachment, attached_to
from zerokit.zero.model.hooks import Hooks, explain
from zerokit.zero.model.partition import check_model, find_blocks, partition, unit_modules, unmanaged
from zerokit.zero.model.structure import Structure
from zerokit.zero.model.views import weakly
from zerokit.zero.numerics import Numerics, ParameterGroups
from zerokit.zero.placement import STAGES, Home, Stage, own_terms
from zerokit.zero.plan import Plan
from zerokit.zero.reduce import Reducer
from zerokit.zero.rows.lookup import is_table
from zerokit.zero.storage import Storage, state_bytes
from zerokit.zero.unit import Unit
from zerokit.zero.update.compress import exact_steps
from zerokit.zero.update.grad_norm import GradientNorm, clip_coefficient
from zerokit.zero.update.kernel import Rule, Update
from zerokit.zero.update.master import MASTERS, Across
from zerokit.zero.update.unused import Unused
from zerokit.zero.wire import make_wire

_BUILT = ("storage", "gatherer", "gradient_norm", "reducer", "micro_batch", "reader", "state", "values", "units",
          "unused", "_hooks", "_attachment", "_update", "_evaluation", "_structure")  # fmt: skip
"""What an engine makes for the model as it is."""


class Engine:
    """Trains `model` with ZeRO: `engine(x)` and `engine.backward(loss)` per micro-batch, then `engine.step()`.

    Losses are means over a micro-batch. The step's gradient is the mean over the global batch: of the micro-batches of
    all ranks, or of their target tokens where `backward` is told how many there are. The model's parameters are views
    of memory that the engine manages: read them through `engine.whole_weights()` or inside `engine.gathered()`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Rule,
        *,
        stage: Stage | int = 2,
        comm: Communicator | None = None,
        numerics: Numerics | None = None,
        groups: ParameterGroups | Callable[[nn.Module], ParameterGroups] | None = None,
        accumulation: int = 1,
        clip_norm: float | None = None,
        max_skips: int = 20,
        seed: int | None = 0,
        units: Sequence[str] = (),
        min_unit: int = 0,
        prefetch: int = 1,
        peers: bool = False,
        states: Literal["group", "all"] = "group",
        offload: Literal["none", "states"] = "none",
        offload_keep_gib: float = 0.0,
        guard: bool | None = None,
        skip_unused: bool = True,
        compile_update: bool | None = None,
        transient_gradients: bool | None = None,
        save_frozen: bool = True,
    ):
        """Divide the model's state. The keywords mean what the config keys of the same names mean.

        comm: the ranks and their device (by default all ranks, on the CPU). groups: which parameters share
        hyperparameters, or a function of the model that says so. seed: of first weights on the meta device; None takes
        rank 0's. peers: transport by peer memory where possible.
        states: if `comm` has groups of ranks, whether each of them has all optimizer states or all ranks divide them.
        offload: `states`, and what completes weights to the master's, lie on the host, but for `offload_keep_gib`.
        guard: weights that are not there read NaN, and what autograd saves is watched for good (by default on a CPU;
        `zerokit.zero.model.hooks`, [Note: entering backward]).
        skip_unused: leave parameters alone that no rank used in a step, as PyTorch does, else take zeros as gradients.
        compile_update: run the optimizer as one compiled kernel; transient_gradients: give the memory of gradients to
        activations from the update to the next backward pass (both by default on a GPU).
        save_frozen: whether states hold frozen weights too.

        Raises:
            ValueError: nothing to train; a pattern of `units` matches nothing; a module cannot initialise itself.
        """
        self.comm = comm or Communicator(torch.device("cpu"))
        self.device = self.comm.device
        self.numerics = numerics or Numerics()
        self.declared = STAGES[stage] if isinstance(stage, int) else stage
        self.stage = self.declared.on(self.comm.mesh, states, offload)
        self.module, self.optimizer, self._accumulation, self.clip_norm = model, optimizer, accumulation, clip_norm
        self.max_skips, self.save_frozen = max_skips, save_frozen
        on_gpu = self.device.type == "cuda"
        compile_update = on_gpu if compile_update is None else compile_update
        transient_gradients = on_gpu if transient_gradients is None else transient_gradients
        self._plan = Plan(groups or ParameterGroups(), units, min_unit, prefetch, peers,
                          not on_gpu if guard is None else guard, skip_unused, compile_update, transient_gradients,
                          int(offload_keep_gib * 2**30))  # fmt: skip
        self.seed, self.parked, self._states_over = seed, Parked(), states
        owner = attached_to(model)
        if owner is not None:
            owner.leave()
        self._make_counters()
        self.build(seed)

    def build(self, seed: int | None, known: Collection[Tensor] = ()) -> None:
        """Divide the model as it is now. known: parameters whose values come later, and
        buffers that stay."""
        plan, comm, model = self._plan, self.comm, self.module
        groups = plan.groups(model) if callable(plan.groups) else plan.groups
        ruled = [group if group.rule else replace(group, rule=self.optimizer) for group in groups.groups]
        self._exact_steps = exact_steps([group.rule for group in ruled], self.declared, comm.mesh)
        check_model(model)
        self.kept = dict(unmanaged(model))
        self.units = partition(model, comm.world, unit_modules(model, plan.units), groups.of, plan.min_unit)
        if not any(unit.trainable for unit in self.units):
            raise ValueError(
                f"{type(model).__name__} has no parameter that requires a gradient: there is nothing to train."
            )
        master = MASTERS[self.numerics.master]
        self.storage = Storage(
            self.units,
            self.stage,
            self.numerics.dtypes(master.extra, comm.world, self.accumulation),
            [group.rule for group in ruled],
            comm.mesh,
            self.device,
            plan.prefetch + 1,
            shared=comm.allocate_shared if plan.peers else None,
            tables=[unit for unit in self.units if is_table(unit)],
            transient=plan.transient_gradients,
            loud=plan.guard,
            host=comm.host,
            keep=plan.keep,
        )
        anywhere = Across(master)
        Materializer(self.storage, anywhere, comm).run(model, seed, known)
        self.gatherer = Gatherer(self.units, self.stage, comm, plan.prefetch)
        self.gradient_norm = GradientNorm(self.storage, comm)
        wire = make_wire(self.storage, comm, plan.peers, max(2, plan.prefetch + 1))
        # Compressed momenta move all elements in any case.
        skips = plan.skip_unused and self._exact_steps is None
        self.unused = Unused(self.storage.trainable, self.device) if skips else None
        self.reducer = Reducer(self.storage, comm, wire, self.gradient_norm, self.unused)
        aim = weakly(self._gradient_target)
        self.micro_batch = MicroBatches(self.gatherer, self.reducer, comm, self.numerics, self.accumulation, aim)
        self._hooks = Hooks(self.gatherer, self.reducer, self.micro_batch, self.numerics.compute, watch=plan.guard)
        self.micro_batch.on_end = weakly(self._hooks.end_pass)
        self._attachment = Attachment(model, self.units, self.storage, comm, self.gatherer, self._hooks,
                                      self.micro_batch.has_gradients, self._load_some, self.detach)  # fmt: skip
        self._update = Update(self.storage, ruled, master, comm, plan.compile_update, self.unused)
        self.reader = WeightReader(self.storage, comm, self.gatherer, anywhere)
        self._evaluation = EvaluationWeights(self)
        self.state = EngineState(self)
        for unit in self.storage.trainable:  # all views of it are made
            unit.drop_gradient()
        self.values = ParameterValues(self)
        self._structure = Structure(model)
        comm.fork()  # the side streams follow the first weights

    def _make_counters(self) -> None:
        def scalar(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(value, dtype=dtype, device=self.device)

        self._lr = scalar(float(self.optimizer.lr))
        self._momentum = scalar(float("nan"))  # each rule's own
        self.steps_taken = scalar(0.0)  # Adam's t: skipped steps do not count
        self.steps_skipped = scalar(0.0)
        self._skips_in_a_row = scalar(0.0)
        self.grad_norm = scalar(0.0)
        self.step_tokens = scalar(0.0)  # of all ranks, in the last step
        self._steps_done = 0  # taken or skipped: the host and all ranks know it without asking the device

    def _load_some(self, weights: Mapping[str, Tensor]) -> None:
        self.state.load_full(weights, strict=False)

    def follow_model(self) -> bool:
        """Divide the model anew if modules or parameters were replaced, frozen or made trainable since; whether it was.

        Between steps only, by all ranks alike. Weights and optimizer states go on (`zerokit.zero.access.rebuild`).
        """
        if not self._structure.has_changed():
            return False
        rebuild(self)
        return True

    def take_off(self, values: Callable[[Unit], list[Tensor]]) -> None:
        """Leave the model, whose parameters get `values`, and free the memory."""
        self._attachment.detach(values)
        self.comm.forget_shared()
        for name in _BUILT:
            setattr(self, name, None)

    def detach(self) -> nn.Module:
        """Give the model back with whole weights of its own, in fp32 on every rank; the engine is of no use any more.
        A collective."""
        self.reader.begin()
        self.take_off(lambda unit: [value.clone() for value in unit.views(self.reader.whole_unit(unit))])
        return self.module

    @property
    def accumulation(self) -> int:
        """Micro-batches per step; formats and scaling rest on it, so it is fixed."""
        return self._accumulation

    def set_lr(self, lr: float, factors: Sequence[float] | None = None) -> None:
        """Learning rate of the next steps (the optimizer's own until then). The host waits for nothing.

        factors: by which each hyperparameter group multiplies it, from here on.
        """
        self._lr.fill_(lr)
        for place, factor in enumerate(factors or ()):
            self._update.lr_factors[place].fill_(factor)

    def set_weight_decay(self, values: Sequence[float]) -> None:
        """Weight decay of the next steps, of each hyperparameter group."""
        self._update.decays.copy_(torch.tensor(values))

    @property
    def lr(self) -> float:
        """Learning rate of the next step. Waits for the device."""
        return float(self._lr)

    def set_momentum(self, momentum: float | None) -> None:
        """Momentum (or first beta) of the next steps, for all parameters; None takes the optimizer's own."""
        self._momentum.fill_(float("nan") if momentum is None else momentum)

    @property
    def blocks(self) -> list[nn.Module]:
        """The repeated modules of the model, in order."""
        return find_blocks(self.module)

    # -- a training step ---------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Floating-point tensors among the arguments are cast to the compute format."""
        passes.clear()
        if self.micro_batch.done == 0 and not passes.in_backward():
            self.follow_model()
        try:
            return self.module(*args, **kwargs)
        except BaseException:
            self.gatherer.release_all()
            raise

    def backward(self, loss: Tensor, *, last: bool | None = None, share: float | None = None,
                 tokens: int | Tensor | None = None, retain_graph: bool = False) -> None:  # fmt: skip
        """Add the gradients of one micro-batch's mean `loss` (0-dim) to those of the step.

        Gradients that the loss has in other engines' models are dropped; `loss.backward()` trains all of them.

        last: whether it ends the step; None counts to `accumulation`. A step may also end with none that was the last:
        then its sums over the ranks are made in `step`, where no backward pass hides them.
        share: of the micro-batch in the step's mean, by default 1 / accumulation.
        tokens: over how many target tokens (or samples) `loss` is the mean, a number or a 0-dim tensor on the device; 0
        adds nothing. The step's gradient is then the mean over the tokens of all ranks and micro-batches, however they
        are divided. Give it for all micro-batches of a step or for none.

        Raises:
            ValueError: `loss` is no scalar; `tokens` for some micro-batches of a step only, or with `share`.
            RuntimeError: the step's last micro-batch has been here already.

        After any other error, out of memory for one, the step starts again from its first micro-batch.
        """
        if loss.numel() != 1:
            raise ValueError(
                f"engine.backward expects a scalar loss, got shape {tuple(loss.shape)}; reduce it with .mean()."
            )
        factor = self.micro_batch.factor(share, tokens)
        passes.clear()
        now = passes.begin(self.micro_batch)
        handle = loss.register_hook(now.note_task) if loss.requires_grad else None
        try:
            self.micro_batch.begin_micro_batch(last)
            loss.backward(factor.to(loss.dtype).view(loss.shape), retain_graph=retain_graph)
            now.end()
        except BaseException as error:
            now.fail()
            explain(error)
            raise
        finally:
            if handle is not None:
                handle.remove()

    def scale(self, loss: Tensor, *, share: float | None = None, tokens: int | Tensor | None = None) -> Tensor:
        """What `loss.backward()` may be called of in place of `engine.backward(loss)`: needed with a loss scale (fp16),
        and where `share` or `tokens` are given, which mean what they mean there."""
        factor = self.micro_batch.factor(share, tokens)
        self.micro_batch.scaled()
        return loss * factor.to(loss.dtype)

    def record(self, step: Callable[[Sequence[tuple[Tensor, ...]]], Tensor]) -> CapturedStep:
        """A whole step as a CUDA graph: takes what `step` takes, micro-batches of tensors whose shapes do not change,
        and returns what it returns, the loss (0-dim). The first calls run `step`, which calls this engine, `backward`
        and `step`; later ones replay what was recorded.

        Raises:
            ConfigError: the engine is not on a GPU, or its steps vary.
        """
        return CapturedStep(self, step)

    def zero_grad(self) -> None:
        """Forget the micro-batches since the last step."""
        self.micro_batch.forget()

    def step(self) -> None:
        """Update the weights with the accumulated gradients, or skip the step on all ranks if one is not finite.

        The host waits for nothing: `grad_norm`, `steps_taken` and `steps_skipped` are tensors on the device.

        Raises:
            RuntimeError: called before all micro-batches of the step went through `backward`.
        """
        micro_batch, scaler = self.micro_batch, self.numerics.scaler
        micro_batch.finish()
        self.gatherer.finish()
        with torch.no_grad():
            total, tokens = self._sum_over_ranks()
            mean = micro_batch.mean_factor(tokens)
            norm = total * mean
            ok = torch.isfinite(norm) | (not self.numerics.skips)
            self._count(norm, ok)
            self.step_tokens.copy_(tokens)
            scale = clip_coefficient(norm, self.clip_norm) * mean
            units = self.gatherer.in_order_of_use(self.storage.trainable)
            self._update(units, self.comm, self._lr, self._momentum, self.steps_taken, scale, ok, self._exact)
            if scaler is not None:
                scaler.update(ok)
            if self.unused is not None:
                self.unused.taken(ok)
        self._steps_done += 1
        self.gatherer.weights_changed()

    def _sum_over_ranks(self) -> tuple[Tensor, Tensor]:
        """The norm of the sums of gradients, and the step's tokens; notes which parameters were used."""
        tokens = self.micro_batch.tokens
        if self.unused is None:
            return self.gradient_norm(tokens)
        norm, tokens, counts = self.gradient_norm(tokens, self.unused.flags())
        self.unused.settle(counts)
        return norm, tokens

    def _gradient_target(self) -> Home:
        return self.stage.optimizer if self._exact else own_terms(self.comm.mesh)

    @property
    def changes(self) -> bool:
        """Whether later steps may be other ones than this: a recording of it would not do for them."""
        return self._exact_steps is not None

    @property
    def _exact(self) -> bool:
        """Whether gradients are summed over the ranks in the step under way; else momenta travel, compressed."""
        return self._exact_steps is None or self._steps_done < self._exact_steps

    def states_changed(self) -> None:
        """The optimizer's states or the counters were written from outside. Waits for the device where steps differ."""
        self._update.exchange.forget()
        self.micro_batch.loaded()
        if self.unused is not None:
            self.unused.loaded()
        if self._exact_steps is not None:
            self._steps_done = int(self.steps_taken + self.steps_skipped)

    def _count(self, norm: Tensor, ok: Tensor) -> None:
        self.grad_norm.copy_(norm)
        self.steps_taken += ok
        skipped = ~ok
        self.steps_skipped += skipped
        scaler = self.numerics.scaler
        self._skips_in_a_row.add_(1.0 if scaler is None else scaler.exhausted()).mul_(skipped)

    def check(self) -> None:
        """Raise FloatingPointError if `max_skips` steps in a row were skipped, not counting those that a shrinking loss
        scale explains. Waits for the device."""
        skips = int(self._skips_in_a_row)
        if skips >= self.max_skips:
            scale = "" if self.numerics.scaler is None else f" at a loss scale of {float(self.numerics.scaler.scale):g}"
            raise FloatingPointError(
                f"The last {skips} steps were skipped{scale}: their gradients were not finite. Lower the learning "
                "rate, look at the data, or train in bf16 or fp32; train.max_skips sets how many skips are allowed."
            )

    def forget_events(self) -> None:
        """Drop the events between streams, and what waits for them; everything issued must be done (before and after
        recording a CUDA graph)."""
        self.gatherer.forget_events()
        self.reducer.forget_events()
        self._update.staging.forget_events()
        for unit in self.storage.trainable:
            unit.drop_gradient()

    @property
    def micro_batches(self) -> int:
        """How many of the step under way have been through `backward`."""
        return self.micro_batch.done

    @property
    def gradients_reduced(self) -> bool:
        """Whether the step's last micro-batch has been through `backward`: its gradients are the sums of all ranks."""
        return self.micro_batch.reduced

    @property
    def gradient_home(self) -> Home:
        """Where the gradients of the step under way lie."""
        return self.reducer.target if self.gradients_reduced else self.stage.gradient

    # -- weights and memory ------------------------------------------------------------------------------------------

    @contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        """The model with whole weights in their compute format, to read. Costs the memory of the whole model."""
        with self.reader.gathered():
            yield self.module

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter's name and whole fp32 master value, sorted by name; one unit is whole at a time.

        A collective: every rank must go through the whole iteration.
        """
        return self.reader.whole_weights()

    def full_state_dict(self, rank0_only: bool = False) -> Mapping[str, Tensor]:
        """The whole fp32 weights by name, on the CPU: the same on every rank, or on rank 0 with nothing on the others.

        On the device one unit is whole at a time. They are those of `evaluating`. A collective.
        """
        keep = self.comm.rank == 0 or not rank0_only
        with self.evaluating():
            return {name: value.cpu().clone() for name, value in self.whole_weights() if keep}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The weights to evaluate and export, where the optimizer trains others (schedule_free_adamw): in the model for
        the time of the block, in which nothing may be trained. Costs a copy of this rank's weights; a collective."""
        with self._evaluation.shown():
            yield

    def load_full_state_dict(self, weights: Mapping[str, Tensor], strict: bool = True) -> None:
        """Take whole weights by name, the same on every rank; any mapping that yields them one by one will do. The
        optimizer's state stays, but for what starts as the weights (of schedule_free_adamw). A collective.

        Raises:
            ValueError: a name is missing or unknown (unless `strict` is false), or a shape is another.
        """
        self.state.load_full(weights, strict)

    # -- state -------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, user: Any = None) -> None:
        """Save weights, optimizer states, counters, loss scale, buffers and random generators as the folder `path`.

        Between steps only. Returns when it is durable; a state is never half there. `user` (JSON) comes back from
        `load`. A collective.

        Raises:
            StateError: a rank could not write, or `path` exists. RuntimeError: a step is under way.
        """
        self.state.save(Path(path), user=user)

    def load(self, path: str | Path, generators: bool = True) -> Any:
        """Take the state in the folder `path`, saved at whatever stage, precision and number of ranks, after every
        byte has been verified; return the `user` values it was saved with. A collective.

        generators: whether each rank's random generators go on as well (as far as the state has that rank).

        Raises:
            DamagedState: the file that is not as it was written. StateMismatch: it belongs to another model or
            optimizer. In both cases nothing has changed.
        """
        return self.state.load(Path(path), generators=generators).user

    def memory(self) -> dict[str, int]:
        """Bytes that this rank holds by kind, exact: parameters, gradients, optimizer, buffers, and on the host."""
        memory = self.storage.memory()
        update = self._update.exchange.nbytes + sum(buffer.nbytes for buffer in self._update.staging.buffers)
        return memory | {"buffers": memory["buffers"] + self.reducer.landing_bytes + update}

    def memory_at(self, stage: Stage | int) -> dict[str, int]:
        """Bytes of parameters, gradients and optimizer states that a rank would hold at another stage."""
        stage = STAGES[stage] if isinstance(stage, int) else stage
        homes = stage.on(self.comm.mesh, self._states_over if stage.optimizer.divided else "group")
        return state_bytes(self.units, homes, self.comm.mesh, self.storage.dtypes, self.storage.states)
