"""The engine: a model whose training state is divided among ranks, and the three calls of a training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zerokit.comm import Communicator
from zerokit.zero import passes
from zerokit.zero.compress import exact_steps
from zerokit.zero.evaluation import EvaluationWeights
from zerokit.zero.gather import Gatherer
from zerokit.zero.grad_norm import GradientNorm, clip_coefficient
from zerokit.zero.hooks import GONE, Hooks, explain
from zerokit.zero.lookup import Lookup, is_table
from zerokit.zero.master import MASTERS
from zerokit.zero.materialize import Materializer
from zerokit.zero.numerics import Numerics, ParameterGroups
from zerokit.zero.partition import find_blocks, partition, unit_modules
from zerokit.zero.persist import EngineState
from zerokit.zero.placement import STAGES, Collective, Placement, Stage, transition
from zerokit.zero.read import WeightReader
from zerokit.zero.reduce import Reducer
from zerokit.zero.storage import Dtypes, Storage, state_bytes
from zerokit.zero.update import Rule, Update
from zerokit.zero.values import ParameterValues
from zerokit.zero.views import Parameters, manage, weakly
from zerokit.zero.wire import CollectiveWire, PeerWire


class Engine:
    """Trains `model` with ZeRO: `engine(x)` and `engine.backward(loss)` per micro-batch, then `engine.step()`.

    Losses are means over a micro-batch. The step's gradient is the mean over the global batch: of the micro-batches of
    all ranks, or of their target tokens where `backward` is told how many there are. The model's parameters are views
    of memory that the engine manages: read them through `engine.whole_weights()` or inside `engine.gathered()`.

    [Note: the mean is taken last] Backward adds gradients of sums; the update multiplies them by the reciprocal of what
    they are divided by, together with clipping, at no cost. So gradients of inputs are those of the loss, and the
    number of tokens need not be known before the step's end. Only with a loss scale (fp16, whose range is small) is the
    number of micro-batches and ranks divided out before backward.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Rule,
        *,
        stage: Stage | int = 2,
        comm: Communicator | None = None,
        numerics: Numerics | None = None,
        groups: ParameterGroups | None = None,
        accumulation: int = 1,
        clip_norm: float | None = None,
        max_skips: int = 20,
        seed: int | None = 0,
        units: Sequence[str] = (),
        min_unit: int = 0,
        prefetch: int = 1,
        peers: bool = False,
        guard: bool | None = None,
        compile_update: bool | None = None,
        transient_gradients: bool | None = None,
    ):
        """Divide the model's state. The keywords mean what the config keys of the same names mean.

        comm: the ranks and their device (by default all ranks, on the CPU). groups: which parameters share
        hyperparameters. seed: of first weights on the meta device; None takes rank 0's. peers: transport by peer memory
        where possible. guard: weights that are not there read NaN, and what autograd saves is watched for good
        (by default on a CPU; `zerokit.zero.hooks`, [Note: entering backward]).
        compile_update: run the optimizer as one compiled kernel; transient_gradients: give the memory of gradients to
        activations from the update to the next backward pass (both by default on a GPU).

        Raises:
            ValueError: nothing to train; a pattern of `units` matches nothing; a module cannot initialise itself.
        """
        self.comm = comm or Communicator(torch.device("cpu"))
        self.device = self.comm.device
        self.numerics = numerics or Numerics()
        self.declared = STAGES[stage] if isinstance(stage, int) else stage
        self.stage = self.declared.on(self.comm.world)
        self.module, self.optimizer, self._accumulation, self.clip_norm = model, optimizer, accumulation, clip_norm
        self.max_skips = max_skips
        groups = groups or ParameterGroups()
        ruled = [group if group.rule else replace(group, rule=optimizer) for group in groups.groups]
        self._exact_steps = exact_steps([group.rule for group in ruled], self.declared)
        modules = unit_modules(model, units)
        self.units = partition(model, self.comm.world, modules, groups.of, min_unit)
        if not any(unit.trainable for unit in self.units):
            raise ValueError(
                f"{type(model).__name__} has no parameter that requires a gradient: there is nothing to train."
            )
        master = MASTERS[self.numerics.master]
        guard = self.device.type == "cpu" if guard is None else guard
        self.storage = Storage(
            self.units,
            self.stage,
            self._dtypes(master.extra),
            [group.rule for group in ruled],
            self.comm.rank,
            self.device,
            prefetch + 1,
            shared=self.comm.allocate_shared if peers else None,
            tables=[unit for unit in self.units if is_table(unit)],
            transient=self.device.type == "cuda" if transient_gradients is None else transient_gradients,
            loud=guard,
        )
        Materializer(self.storage, master, self.comm).run(model, seed)
        self.gatherer = Gatherer(self.units, self.stage, self.comm, prefetch)
        self.gradient_norm = GradientNorm(self.storage, self.comm)
        self.reducer = Reducer(
            self.storage, self.comm, self._make_wire(peers, max(2, prefetch + 1)), self.gradient_norm
        )
        self.hooks = Hooks(self.gatherer, self.reducer, self, self.numerics.compute, watch=guard)
        self._attach(model)
        compiled = self.device.type == "cuda" if compile_update is None else compile_update
        self._update = Update(self.storage, ruled, master, self.comm, compiled)
        self.reader = WeightReader(self)
        self._evaluation = EvaluationWeights(self)
        self._make_counters()
        self._steps_done = 0  # taken or skipped: the host and all ranks know it without asking the device
        self._counts = True  # micro-batches are counted, as nobody said which is the last
        self._by_tokens = self._knows_tokens = False
        self._begun = self._is_scaled = self._ends_step = False  # of the backward pass under way
        self.zero_grad()
        self.state = EngineState(self)
        for unit in self.storage.trainable:  # all views of it are made
            unit.drop_gradient()
        self.values = ParameterValues(self)
        self.comm.fork()  # the side streams follow the first weights

    def _dtypes(self, extra: torch.dtype | None) -> Dtypes:
        n = self.numerics
        wire = n.reduce if self.comm.world > 1 else n.accumulate
        stored = n.accumulate if self.accumulation > 1 else wire
        return Dtypes(weight=n.compute, extra=extra, gradient=stored, wire=wire)

    def _make_wire(self, peers: bool, ways: int) -> CollectiveWire | PeerWire:
        self.landing_bytes = 0
        scatters = transition(Placement.PARTIAL, self.stage.gradient) is Collective.REDUCE_SCATTER
        if peers and scatters:
            memory = self.comm.peer_memory(
                PeerWire.elements(self.storage, self.comm.world, ways), self.numerics.compute
            )
            if memory is not None:
                self.landing_bytes = memory.nbytes
                return PeerWire(self.storage, self.comm, memory, ways)
        self.storage.allocate_wires()
        return CollectiveWire(self.storage, self.comm)

    def _make_counters(self) -> None:
        def scalar(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(value, dtype=dtype, device=self.device)

        self._lr = scalar(float(self.optimizer.lr))
        self._momentum = scalar(float("nan"))  # each rule's own
        self.steps_taken = scalar(0.0)  # Adam's t: skipped steps do not count
        self.steps_skipped = scalar(0.0)
        self._skips_in_a_row = scalar(0.0)
        self.grad_norm = scalar(0.0)
        # What losses are multiplied with before backward, beside the loss scale.
        before = 1.0 if self.numerics.scaler is None else 1.0 / (self.accumulation * self.comm.world)
        self._before = scalar(before, torch.float32)
        self.step_tokens = scalar(0.0)  # of all ranks, in the last step
        self.tokens_so_far = scalar(0.0)  # of this rank, in the step under way
        self._token_unit = scalar(0.0, torch.float32)  # a power of two near the tokens of a micro-batch; 0: not known

    def _attach(self, model: nn.Module) -> None:
        by_module: dict[nn.Module, list] = {model: []}
        for unit in self.units:
            by_module.setdefault(unit.module, []).append(unit)
            unit.model_views.read = self.gatherer.reader_of(unit)
            manage(unit.parameters, weakly(self._has_taken_gradients, default=False))
        self._put_parameters(model)
        for unit in (unit for unit in self.units if unit.in_place or unit.rows is not None):
            unit.module.forward = Lookup(unit, self.storage.peers, self.comm)
        for module, units in by_module.items():
            self.hooks.attach(module, units, root=module is model)
        model.register_state_dict_pre_hook(weakly(self._before_state_dict, GONE))

    def _has_taken_gradients(self) -> bool:
        return self._micro > 0

    def _put_parameters(self, model: nn.Module) -> None:
        """Who reads a parameter from its module has its unit gathered first."""
        views = {p: unit.model_views for unit in self.units for p in unit.parameters}
        for module in model.modules():
            of = {name: views[p] for name, p in module._parameters.items() if p in views}
            if of:
                module.__dict__["_parameters"] = Parameters(module._parameters, of)

    def _before_state_dict(self, *_: Any) -> None:
        if self.storage.weight_slots and not self.reader.open:
            raise RuntimeError(
                "state_dict() of a model whose parameters are sharded would read memory that other parameters use. "
                "Use engine.full_state_dict(), or call it inside `with engine.gathered():`."
            )
        self.gatherer.settle()

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
        factor = self._factor(share, tokens)
        passes.clear()
        now = passes.begin(self)
        handle = loss.register_hook(now.note_task) if loss.requires_grad else None
        try:
            self.begin_micro_batch(last)
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
        factor = self._factor(share, tokens)
        self._is_scaled = True
        return loss * factor.to(loss.dtype)

    def _factor(self, share: float | None, tokens: int | Tensor | None) -> Tensor:
        """What the gradient of a micro-batch's loss is multiplied with in backward."""
        if self._reduced:
            counted = f"{self._micro + 1} times for accumulation={self.accumulation}"
            raise RuntimeError(
                f"engine.backward was called {counted if self._counts else 'after the last micro-batch of the step'}: "
                "call engine.step() after every step's micro-batches."
            )
        factor = self._before * self._weigh(share, tokens)
        return factor if self.numerics.scaler is None else factor * self.numerics.scaler.scale

    # -- backward passes, as `zerokit.zero.passes` sees an engine ------------------------------------------------------

    def begin_micro_batch(self, last: bool | None = None) -> None:
        """The pass under way has gradients for this engine, which are those of a micro-batch."""
        if self._begun:
            return
        if passes.is_plain() and not self._is_scaled:
            self._factor(None, None)
            if self.numerics.scaler is not None:
                raise RuntimeError(
                    "loss.backward() leaves out the loss scale that precision=fp16 needs: call engine.backward(loss), "
                    "or engine.scale(loss).backward()."
                )
        if self._micro == 0:
            self.reducer.aim(self.stage.optimizer if self._exact else Placement.PARTIAL)
        self._counts = last is None
        self._ends_step = self._micro == self.accumulation - 1 if last is None else last
        self.reducer.begin(first=self._micro == 0, last=self._ends_step)
        self._begun = True

    def end_pass(self, trained: bool) -> None:
        """A backward pass that met this engine is over. trained: its gradients are this engine's."""
        if not trained:
            self.reducer.abandon()
        elif self._begun or self.reducer.has_gradients:
            self.begin_micro_batch()
            self.reducer.flush()
            self._micro += 1
            self._reduced = self._ends_step
            self._check_taken()
        self._begun = self._is_scaled = False
        self.gatherer.release_all()
        self.hooks.end_pass()

    def fail_pass(self, trained: bool) -> None:
        """A backward pass that met this engine has failed: what was reduced before is incomplete."""
        self.reducer.abandon()
        self.gatherer.release_all()
        self._begun = self._is_scaled = False
        if trained:
            self.zero_grad()

    def _check_taken(self) -> None:
        if self.reducer.has_gradients:
            names = [name for unit in self.storage.trainable for name in unit.names_with_gradients]
            self.reducer.abandon()
            self.zero_grad()
            raise RuntimeError(
                f"'{names[0]}' got a gradient after those of its unit had been summed over the ranks, so the step "
                "starts again from its first micro-batch. It is used inside a reentrant checkpoint and outside of it: "
                "checkpoint with use_reentrant=False."
            )

    def _weigh(self, share: float | None, tokens: int | Tensor | None) -> float | Tensor:
        """What a micro-batch counts in the step, 1 unless said otherwise; notes its tokens."""
        by_tokens = tokens is not None
        if by_tokens and share is not None:
            raise ValueError("engine.backward takes `share` or `tokens`, not both: tokens give each loss its share.")
        if self._micro and by_tokens is not self._by_tokens:
            raise ValueError("engine.backward got `tokens` for some micro-batches of this step, but not for all.")
        self._by_tokens = by_tokens
        if not by_tokens:
            return 1.0 if share is None else share * self.accumulation
        if self._micro == 0:
            self.tokens_so_far.zero_()
        self.tokens_so_far += tokens
        if not self._knows_tokens:
            self._learn_tokens(tokens)
        return tokens / self._token_unit

    def _learn_tokens(self, tokens: int | Tensor) -> None:
        """Gradients of sums over tokens have the size of those of means if they are divided by this number. It must be
        the same on all ranks and in all steps; a power of two changes no bit."""
        most = torch.as_tensor(tokens, dtype=torch.float32, device=self.device).clone()
        self.comm.all_reduce(most, kind="tokens", maximum=True)
        self._token_unit.copy_(torch.exp2(most.clamp(min=1.0).log2().floor()))
        self._knows_tokens = True

    def mean_factor(self, tokens: Tensor) -> Tensor:
        """What makes the step's mean of its sum of gradients; `tokens` are those of all ranks (0-dim float64)."""
        scale = 1.0 if self.numerics.scaler is None else self.numerics.scaler.scale.double()
        count = self.accumulation * self.comm.world
        if self._by_tokens:
            count = torch.where(tokens > 0, tokens / self._token_unit.double(), 1.0)
        return 1.0 / (self._before.double() * scale * count)

    def zero_grad(self) -> None:
        """Forget the micro-batches since the last step."""
        self._micro, self._reduced = 0, False

    def step(self) -> None:
        """Update the weights with the accumulated gradients, or skip the step on all ranks if one is not finite.

        The host waits for nothing: `grad_norm`, `steps_taken` and `steps_skipped` are tensors on the device.

        Raises:
            RuntimeError: called before all micro-batches of the step went through `backward`.
        """
        if self._micro == 0 or (self._counts and not self._reduced):
            raise RuntimeError(
                f"engine.step was called after {self._micro} of {self.accumulation} micro-batches: call "
                f"engine.backward {self.accumulation} times first."
            )
        self._check_untouched()
        if not self._reduced:
            self.reducer.complete()
        self.zero_grad()
        self.reducer.finish()
        self.gatherer.finish()
        scaler = self.numerics.scaler
        with torch.no_grad():
            total, tokens = self.gradient_norm(self.tokens_so_far)
            mean = self.mean_factor(tokens)
            norm = total * mean
            ok = torch.isfinite(norm)
            self._count(norm, ok)
            self.step_tokens.copy_(tokens)
            scale = clip_coefficient(norm, self.clip_norm) * mean
            units = self.gatherer.in_order_of_use(self.storage.trainable)
            self._update(units, self.comm, self._lr, self._momentum, self.steps_taken, scale, ok, self._exact)
            if scaler is not None:
                scaler.update(ok)
        self._steps_done += 1
        self.gatherer.weights_changed()

    def _check_untouched(self) -> None:
        names = [name for unit in self.storage.trainable for name in unit.names_with_gradients]
        if names:
            raise RuntimeError(
                f"'{names[0]}' has a gradient that belongs to no micro-batch of this step: it was computed after the "
                "last one, or from the parameter itself. Add it to the loss of a micro-batch, or set it to None."
            )

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
        self._knows_tokens = bool(self._token_unit)
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
        for unit in self.storage.trainable:
            unit.drop_gradient()

    @property
    def micro_batches(self) -> int:
        """How many of the step under way have been through `backward`."""
        return self._micro

    @property
    def gradients_reduced(self) -> bool:
        """Whether the step's last micro-batch has been through `backward`: its gradients are the sums of all ranks."""
        return self._reduced

    @property
    def gradient_placement(self) -> Placement:
        """Where the gradients of the step under way lie."""
        return self.reducer.target if self._reduced else self.stage.gradient

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
        """Bytes that this rank holds by kind, exact: parameters, gradients, optimizer, buffers."""
        memory = self.storage.memory()
        return memory | {"buffers": memory["buffers"] + self.landing_bytes + self._update.exchange.nbytes}

    def memory_at(self, stage: Stage | int) -> dict[str, int]:
        """Bytes of parameters, gradients and optimizer states that a rank would hold at another stage."""
        stage = STAGES[stage] if isinstance(stage, int) else stage
        return state_bytes(self.units, stage, self.storage.dtypes, self.storage.states)
