"""The micro-batches of a step: what each counts, and the backward passes that bring their gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zerokit.comm import Communicator
from zerokit.zero.gather import Gatherer
from zerokit.zero.model import passes
from zerokit.zero.numerics import Numerics
from zerokit.zero.placement import Home
from zerokit.zero.reduce import Reducer


class MicroBatches:
    """Those of the step under way. An engine, as `zerokit.zero.model.passes` sees it.

    [Note: the mean is taken last] Backward adds gradients of sums; the update multiplies them by the reciprocal of what
    they are divided by, together with clipping, at no cost. So gradients of inputs are those of the loss, and the
    number of tokens need not be known before the step's end. Only with a loss scale (fp16, whose range is small) is the
    number of micro-batches and ranks divided out before backward.

    target: where the gradients of the step under way go (a placement). on_end: called at the end of every pass.
    usual: share and `last` of passes that `loss.backward()` begins; None means what it means for `Engine.backward`.
    done: how many have been through backward. reduced: the last one was among them.
    tokens: this rank's in the step under way (0-dim float64).
    """

    def __init__(self, gatherer: Gatherer, reducer: Reducer, comm: Communicator, numerics: Numerics, accumulation: int,
                 target: Callable[[], Home]):  # fmt: skip
        self._gatherer, self._reducer, self._comm, self._numerics = gatherer, reducer, comm, numerics
        self.accumulation, self._target = accumulation, target
        self.on_end: Callable[[], None] = lambda: None
        self.usual: Callable[[], tuple[float | None, bool | None]] = lambda: (None, None)
        # What losses are multiplied with before backward, beside the loss scale.
        before = 1.0 if numerics.scaler is None else 1.0 / (accumulation * comm.world)
        self._before = torch.tensor(before, dtype=torch.float32, device=comm.device)
        self.tokens = torch.zeros((), dtype=torch.float64, device=comm.device)
        # A power of two near the tokens of a micro-batch; 0: not known.
        self.token_unit = torch.zeros((), dtype=torch.float32, device=comm.device)
        self._knows_tokens = self._by_tokens = False
        self._plain = 1.0  # what micro-batches of loss.backward() count in the step under way, in parts of the usual
        self._begun = self._is_scaled = self._ends_step = False  # of the backward pass under way
        self.counted = True  # nobody said which is the last
        self.forget()

    def forget(self) -> None:
        """The step starts from its first micro-batch."""
        self.done, self.reduced = 0, False

    def has_gradients(self) -> bool:
        """Whether the step under way has had backward passes."""
        return self.done > 0

    def loaded(self) -> None:
        """The counters were written from outside."""
        self._knows_tokens = bool(self.token_unit)

    # -- what a micro-batch counts -------------------------------------------------------------------------------------

    def factor(self, share: float | None, tokens: int | Tensor | None) -> Tensor:
        """What the gradient of a micro-batch's loss is multiplied with (0-dim float32); notes its tokens."""
        if self.reduced:
            counted = f"{self.done + 1} times for accumulation={self.accumulation}"
            raise RuntimeError(
                f"engine.backward was called {counted if self.counted else 'after the last micro-batch of the step'}: "
                "call engine.step() after every step's micro-batches."
            )
        factor = self._before * self._weigh(share, tokens)
        scaler = self._numerics.scaler
        return factor if scaler is None else factor * scaler.scale

    def scaled(self) -> None:
        """The loss of the pass to come has been multiplied with its factor."""
        self._is_scaled = True

    def _weigh(self, share: float | None, tokens: int | Tensor | None) -> float | Tensor:
        """What a micro-batch counts in the step, 1 unless said otherwise."""
        by_tokens = tokens is not None
        if by_tokens and share is not None:
            raise ValueError("engine.backward takes `share` or `tokens`, not both: tokens give each loss its share.")
        if self.done and by_tokens is not self._by_tokens:
            raise ValueError("engine.backward got `tokens` for some micro-batches of this step, but not for all.")
        self._by_tokens = by_tokens
        if not by_tokens:
            return 1.0 if share is None else share * self.accumulation
        if self.done == 0:
            self.tokens.zero_()
        self.tokens += tokens
        if not self._knows_tokens:
            self._learn_tokens(tokens)
        return tokens / self.token_unit

    def _learn_tokens(self, tokens: int | Tensor) -> None:
        """Gradients of sums over tokens have the size of those of means if they are divided by this number. It must be
        the same on all ranks and in all steps; a power of two changes no bit."""
        most = torch.as_tensor(tokens, dtype=torch.float32, device=self._comm.device).clone()
        self._comm.all_reduce(most, kind="tokens", maximum=True)
        self.token_unit.copy_(torch.exp2(most.clamp(min=1.0).log2().floor()))
        self._knows_tokens = True

    def mean_factor(self, tokens: Tensor) -> Tensor:
        """What makes the step's mean of its sum of gradients; `tokens` are those of all ranks (0-dim float64)."""
        scale = 1.0 if self._numerics.scaler is None else self._numerics.scaler.scale.double()
        count = self.accumulation * self._comm.world
        if self._by_tokens:
            count = torch.where(tokens > 0, tokens / self.token_unit.double(), 1.0)
        return self._plain * self._numerics.weight / (self._before.double() * scale * count)

    # -- backward passes -----------------------------------------------------------------------------------------------

    def begin_micro_batch(self, last: bool | None = None) -> None:
        """The pass under way has gradients for this engine, which are those of a micro-batch."""
        if self._begun:
            return
        if self.done == 0:
            self._plain = 1.0
        if passes.is_plain():
            if not self._is_scaled:
                self._count_plain()
            last = self.usual()[1] if last is None else last
        if self.done == 0:
            self._reducer.aim(self._target())
        self.counted = last is None
        self._ends_step = self.done == self.accumulation - 1 if last is None else last
        self._reducer.begin(first=self.done == 0, last=self._ends_step)
        self._begun = True

    def _count_plain(self) -> None:
        """The pass under way was begun by `loss.backward()`."""
        self.factor(None, None)
        if self._numerics.scaler is not None:
            raise RuntimeError(
                "loss.backward() leaves out the loss scale that precision=fp16 needs: call engine.backward(loss), "
                "or engine.scale(loss).backward()."
            )
        share = self.usual()[0]
        counts = 1.0 if share is None else share * self.accumulation
        if self.done and counts != self._plain:
            raise RuntimeError("loss.backward() and engine.backward(loss) in one step would not count alike: use one.")
        self._plain = counts

    def end_pass(self, trained: bool) -> None:
        """A backward pass that met this engine is over. trained: its gradients are this engine's."""
        if not trained:
            self._reducer.abandon()
        elif self._begun or self._reducer.names_with_gradients():
            self.begin_micro_batch()
            self._reducer.flush()
            self.done += 1
            self.reduced = self._ends_step
            self._check_taken()
        self._begun = self._is_scaled = False
        self._gatherer.release_all()
        self.on_end()

    def fail_pass(self, trained: bool) -> None:
        """A backward pass that met this engine has failed: what was reduced before is incomplete."""
        self._reducer.abandon()
        self._gatherer.release_all()
        self._begun = self._is_scaled = False
        if trained:
            self.forget()

    def _check_taken(self) -> None:
        names = self._reducer.names_with_gradients()
        if names:
            self._reducer.abandon()
            self.forget()
            raise RuntimeError(
                f"'{names[0]}' got a gradient after those of its unit had been summed over the ranks, so the step "
                "starts again from its first micro-batch. It is used inside a reentrant checkpoint and outside of it: "
                "checkpoint with use_reentrant=False."
            )

    def finish(self) -> None:
        """The step's gradients are to be there.

        Raises:
            RuntimeError: micro-batches are missing, or a parameter has a gradient that is of none.
        """
        names = self._reducer.names_with_gradients()
        if names and self.done == 0 and self.accumulation == 1:
            # A loss that nothing led from to the model but its parameters: nobody saw the pass.
            if not self._is_scaled:
                self._count_plain()
            self.end_pass(trained=True)
            names = []
        if names and self.done == 0:
            raise RuntimeError(
                f"'{names[0]}' has a gradient of a loss.backward() that could not be followed, as the model's output "
                "hides its tensors: call engine.backward(loss)."
            )
        if self.done == 0 or (self.counted and not self.reduced):
            raise RuntimeError(
                f"engine.step was called after {self.done} of {self.accumulation} micro-batches: call "
                f"engine.backward {self.accumulation} times first."
            )
        if names:
            raise RuntimeError(
                f"'{names[0]}' has a gradient that belongs to no micro-batch of this step: it was computed after the "
                "last one, or from the parameter itself. Add it to the loss of a micro-batch, or set it to None."
            )
        if not self.reduced:
            self._reducer.complete()
        self.forget()
        self._reducer.finish()
