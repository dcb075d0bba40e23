"""The loop around a stub of the engine: the loss of a sample is its global index, and the clock is a fake."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.ranks import run_ranks
from zerokit.comm import Communicator
from zerokit.config.batch import Batch
from zerokit.config.data_info import DataInfo
from zerokit.config.schema import TrainConfig
from zerokit.record.metrics import bits_per_byte
from zerokit.scheduler._base import Rates
from zerokit.train import trainer as module_under_test
from zerokit.train.loader import Loader
from zerokit.train.objective import Objective
from zerokit.train.trainer import Trainer

SEQ_LEN, GLOBAL = 3, 8
CUT, COMPUTE, EVALUATE, CALLER = 1.0, 4.0, 100.0, 1000.0
"""Seconds on the fake clock: of cutting a micro-batch, of its loss, of a held-out batch, of whoever runs the loop."""


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class StubEngine:
    """Takes every call that a trainer makes and notes it."""

    def __init__(self):
        self.comm = Communicator(torch.device("cpu"))
        self.device, self.lr = self.comm.device, 0.5
        self.module = nn.Sequential(nn.Linear(1, 1), nn.Dropout(), nn.Dropout())
        self.numerics, self.units = SimpleNamespace(scaler=None), [None]
        self.grad_norm, self.steps_skipped = torch.tensor(7.0), torch.tensor(2.0)
        self.calls, self.lrs, self.checks = [], [], 0

    def set_lr(self, lr: float) -> None:
        self.lr = lr

    def backward(self, loss, tokens=None) -> None:
        assert tokens is None  # of numbers there is a mean over samples
        self.calls.append(float(loss))

    def step(self) -> None:
        self.calls.append("step")
        self.lrs.append(self.lr)

    def check(self) -> None:
        self.checks += 1

    def evaluating(self):
        return nullcontext()


class Source:
    """Samples that are their own indices; the held-out ones count from 1000."""

    def __init__(self, clock: Clock, seq_len: int | None = SEQ_LEN, bytes_per_token: float | None = None):
        self.clock, self.held_out = clock, 1 << 20
        self.info = DataInfo("regression", seq_len, None, 1, 1, "", "", bytes_per_token)

    def __len__(self) -> int:
        return 32

    def batch(self, start: int, count: int):
        self.clock.now += CUT
        return (torch.arange(start, start + count).float(),) * 2

    def validation(self, start: int, count: int):
        if start + count > self.held_out:
            return None
        self.clock.now += EVALUATE
        return (torch.arange(1000 + start, 1000 + start + count).float(),) * 2


def make(accumulation: int = 2, clock: Clock | None = None, source: Source | None = None, **options) -> Trainer:
    clock = clock or Clock()
    engine, source = StubEngine(), source or Source(clock)
    batch = Batch(GLOBAL, GLOBAL // accumulation // engine.comm.world, accumulation)
    loader = Loader(source, batch.micro, engine.comm.rank, engine.comm.world, engine.device)

    def loss(inputs, targets):
        clock.now += COMPUTE if inputs[0] < 1000 else 0
        return inputs.mean()

    options = TrainConfig(**{"steps": 4, "log_every": 1, "eval_samples": 8} | options)
    return Trainer(engine, lambda step: Rates(0.5 / (1 + step)), loader, Objective(loss, source.info), batch, options)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module_under_test, "time", made)
    return made


def due(trainer: Trainer) -> dict[int, dict[str, float]]:
    """Metrics by step, of the steps that have some; every step is yielded."""
    first, seen = trainer.progress.step + 1, list(trainer.fit())
    assert [step for step, _ in seen] == [*range(first, trainer.options.steps + 1)]
    return {step: metrics for step, metrics in seen if metrics is not None}


def mean_index(*steps: int) -> float:
    """Mean index of all samples of steps, counted from 1."""
    return sum(GLOBAL * (step - 1) + (GLOBAL - 1) / 2 for step in steps) / len(steps)


# -- steps -----------------------------------------------------------------------------------------------------------


def test_every_micro_batch_goes_backward_before_the_step():
    trainer = make(accumulation=2, steps=2)
    due(trainer)
    assert trainer.engine.calls == [1.5, 5.5, "step", 9.5, 13.5, "step"]


def test_the_schedule_starts_at_step_0_and_is_set_before_the_update():
    trainer = make(steps=4)
    lines = due(trainer)
    assert trainer.engine.lrs == [0.5, 0.5 / 2, 0.5 / 3, 0.5 / 4]
    assert [line["optim/lr"] for line in lines.values()] == trainer.engine.lrs


def test_a_training_goes_on_from_its_step():
    trainer = make(accumulation=2, steps=4, log_every=2)
    trainer.load_state({"step": 3, "samples": 3 * GLOBAL})
    lines = due(trainer)
    assert trainer.engine.calls == [25.5, 29.5, "step"] and trainer.engine.lrs == [0.125]
    assert lines[4]["train/loss"] == mean_index(4)


@pytest.mark.parametrize(("waiting", "limits"), [(0.0, True), (9.0, False)])
def test_a_device_that_has_nothing_to_do_at_a_line_of_metrics_waits_for_the_host(clock, waiting, limits):
    trainer = make(steps=50, log_every=10, clock=clock, eval_samples=0)
    gather = trainer.comm.gather_row

    def gather_row(row):
        clock.now += waiting
        return gather(row)

    trainer.comm.gather_row = gather_row
    due(trainer)
    assert trainer.waits.host_limits is limits


# -- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "log_every", "lines"),
    [(1, 10, [1]), (7, 3, [1, 3, 6, 7]), (6, 3, [1, 3, 6]), (3, 1, [1, 2, 3]), (5, 100, [1, 5])],
)
def test_metrics_are_due_at_the_first_step_every_log_every_and_the_last(steps, log_every, lines):
    trainer = make(steps=steps, log_every=log_every, eval_samples=0)
    assert list(due(trainer)) == lines
    assert trainer.engine.checks == len(lines)


@pytest.mark.parametrize(
    ("steps", "eval_every", "at"), [(5, 0, [5]), (5, 2, [2, 4, 5]), (6, 3, [3, 6]), (3, 1, [1, 2, 3]), (2, 5, [2])]
)
def test_evaluation_is_due_every_eval_every_and_at_the_last_step(steps, eval_every, at):
    lines = due(make(steps=steps, log_every=100, eval_every=eval_every))
    assert [step for step, line in lines.items() if "eval/loss" in line] == at
    assert all("train/loss" in line for line in lines.values())


def test_skipped_steps_end_the_training():
    trainer = make(steps=5, log_every=2)

    def check():
        if len(trainer.engine.lrs) == 2:
            raise FloatingPointError("skipped")

    trainer.engine.check = check
    with pytest.raises(FloatingPointError, match="skipped"):
        due(trainer)
    assert trainer.engine.lrs == [0.5, 0.25]


# -- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_the_loss_is_the_mean_over_micro_batches(accumulation):
    lines = due(make(accumulation=accumulation, steps=3))
    assert [line["train/loss"] for line in lines.values()] == [mean_index(1), mean_index(2), mean_index(3)]


def test_the_loss_is_the_mean_over_the_steps_since_the_last_line():
    trainer = make(steps=8, log_every=3)
    lines = due(trainer)
    expected = {1: mean_index(1), 3: mean_index(2, 3), 6: mean_index(4, 5, 6), 8: mean_index(7, 8)}
    assert {step: line["train/loss"] for step, line in lines.items()} == expected
    assert (trainer.progress.first_loss, trainer.progress.loss) == (expected[1], expected[8])


def losses_of_ranks() -> tuple:
    trainer = make(accumulation=2, steps=3, log_every=3)
    lines = due(trainer)
    own = [call for call in trainer.engine.calls if call != "step"]
    losses = [line["train/loss"] for line in lines.values()]
    return own, losses, lines[3]["eval/loss"], lines[3]["trainer/tokens"]


def test_ranks_train_on_other_samples_and_agree_on_the_mean():
    first, second = run_ranks(losses_of_ranks, 2)
    assert first[0][:2] == [0.5, 4.5] and second[0][:2] == [2.5, 6.5]
    assert first[1:] == second[1:] == ([mean_index(1), mean_index(2, 3)], 1003.5, 3 * GLOBAL * SEQ_LEN)


# -- speed and counts ------------------------------------------------------------------------------------------------


def test_speed_counts_training_alone(clock):
    trainer = make(accumulation=2, clock=clock, steps=5, log_every=2, eval_every=2)
    step_time, lines = 2 * (CUT + COMPUTE), {}
    for step, metrics in trainer.fit():
        clock.now += CALLER
        lines |= {} if metrics is None else {step: metrics}
    assert list(lines) == [1, 2, 4, 5]
    for line in lines.values():
        assert line["perf/step_time_s"] == step_time
        assert line["perf/tokens_per_sec"] == line["perf/tokens_per_sec_per_gpu"] == GLOBAL * SEQ_LEN / step_time
        assert line["time/data_pct"] == pytest.approx(100 * CUT / (CUT + COMPUTE))
    progress = trainer.progress
    assert (progress.seconds, progress.first_seconds) == (5 * step_time, step_time)
    assert progress.tokens_per_sec == GLOBAL * SEQ_LEN / step_time


def test_the_first_step_is_timed_apart(clock):
    trainer = make(accumulation=2, clock=clock, steps=3, log_every=3, eval_samples=0)
    trainer.engine.backward = lambda loss, tokens: setattr(clock, "now", clock.now + (50 if float(loss) < 2 else 0))
    lines = due(trainer)
    assert (trainer.progress.first_seconds, trainer.progress.seconds) == (60, 80)
    assert [line["perf/step_time_s"] for line in lines.values()] == [60, 10]


def speed_of_ranks() -> dict[str, float]:
    clock = module_under_test.time = Clock()
    return due(make(accumulation=2, clock=clock, steps=1))[1]


def test_speed_per_gpu_is_a_share_of_the_whole():
    line = run_ranks(speed_of_ranks, 2)[0]
    assert line["perf/tokens_per_sec"] == GLOBAL * SEQ_LEN / 10
    assert line["perf/tokens_per_sec_per_gpu"] == GLOBAL * SEQ_LEN / 20


def test_flops_follow_from_the_model(clock):
    trainer = make(clock=clock)
    assert "perf/tflops_per_gpu" not in due(trainer)[1]
    engine = StubEngine()
    engine.module.flops_per_token = lambda seq_len: 1e12 * seq_len
    trainer = Trainer(engine, trainer.schedule, trainer.loader, trainer.objective, trainer.batch, trainer.options)
    assert due(trainer)[1]["perf/tflops_per_gpu"] == pytest.approx(SEQ_LEN * GLOBAL * SEQ_LEN / 10)


def test_tokens_and_epochs_of_all_ranks_are_counted():
    trainer = make(steps=6, log_every=4)
    lines = due(trainer)
    assert {step: line["trainer/tokens"] for step, line in lines.items()} == {1: 24, 4: 96, 6: 144}
    assert {step: line["trainer/epoch"] for step, line in lines.items()} == {1: 0.25, 4: 1.0, 6: 1.5}
    assert (trainer.progress.step, trainer.progress.tokens) == (6, 144)


def test_data_without_tokens_count_samples():
    clock = Clock()
    trainer = make(steps=2, clock=clock, source=Source(clock, seq_len=None))
    assert due(trainer)[2]["trainer/tokens"] == 2 * GLOBAL


def test_text_has_bits_per_byte():
    clock = Clock()
    line = due(make(steps=1, clock=clock, source=Source(clock, bytes_per_token=2.0)))[1]
    assert line["train/bits_per_byte"] == bits_per_byte(line["train/loss"], 2.0)
    assert line["eval/bits_per_byte"] == bits_per_byte(line["eval/loss"], 2.0)
    assert "train/bits_per_byte" not in due(make(steps=1))[1]


def test_the_state_of_the_engine_is_among_the_metrics():
    trainer = make(steps=1)
    line = due(trainer)[1]
    assert (line["train/grad_norm"], line["precision/skipped_steps"]) == (7, 2)
    assert "precision/loss_scale" not in line
    scaled = make(steps=1)
    scaled.engine.numerics.scaler = SimpleNamespace(scale=torch.tensor(64.0))
    assert due(scaled)[1]["precision/loss_scale"] == 64


def memory_of_ranks() -> dict[str, float]:
    trainer = make(steps=1)
    trainer.meter = SimpleNamespace(
        peak=lambda: (1 + trainer.comm.rank) << 30, reserved=lambda: (5 + trainer.comm.rank) << 30
    )
    trainer.comm.shared_bytes = 1 << 29
    return due(trainer)[1]


def test_memory_is_that_of_the_fullest_and_the_emptiest_rank():
    line = run_ranks(memory_of_ranks, 2)[0]
    names = ("max_allocated", "min_allocated", "max_reserved")
    assert [line[f"memory/{name}_gib"] for name in names] == [2.5, 1.5, 6.5]


# -- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2, 8])
@pytest.mark.parametrize("samples", [1, 3, 8, 11])
def test_evaluation_is_the_mean_over_the_held_out_samples(samples, accumulation):
    trainer = make(accumulation=accumulation, eval_samples=samples)
    assert trainer.evaluate() == {"eval/loss": pytest.approx(1000 + (samples - 1) / 2, rel=1e-12)}
    assert trainer.progress.held_out_loss == pytest.approx(1000 + (samples - 1) / 2)
    assert trainer.engine.calls == []


def test_micro_batches_to_evaluate_may_be_given_in_place_of_samples():
    trainer = make(accumulation=2, eval_batches=3)
    assert trainer.evaluate() == {"eval/loss": 1000 + (3 * 4 - 1) / 2}
    assert make(eval_batches=0).evaluate() == {}


def evaluation_of_ranks(samples: int) -> float:
    return make(accumulation=2, eval_samples=samples).evaluate()["eval/loss"]


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_evaluation_does_not_depend_on_the_number_of_ranks(samples):
    assert run_ranks(evaluation_of_ranks, 3, samples) == [pytest.approx(1000 + (samples - 1) / 2)] * 3


def test_without_held_out_samples_there_is_no_evaluation():
    trainer = make()
    trainer.loader.source.held_out = 0
    assert trainer.evaluate() == {} and trainer.progress.held_out_loss is None
    assert make(eval_samples=0).evaluate() == {}
    assert trainer.engine.module.training


def test_evaluation_runs_in_eval_mode_without_gradients_and_leaves_the_modes_as_they_were():
    trainer = make()
    trainer.engine.module[2].eval()
    before = [module.training for module in trainer.engine.module.modules()]
    seen = []

    def loss(inputs, targets):
        seen.append((any(m.training for m in trainer.engine.module.modules()), torch.is_grad_enabled()))
        return inputs.mean()

    trainer.objective.loss = loss
    trainer.evaluate()
    assert seen == [(False, False)] * 2
    assert [module.training for module in trainer.engine.module.modules()] == before == [True, True, True, False]
    assert torch.is_grad_enabled()


def test_the_first_step_after_an_evaluation_is_in_training_mode():
    trainer = make(steps=3, eval_every=1)
    modes = []
    trainer.engine.backward = lambda loss, tokens: modes.append(trainer.engine.module.training)
    due(trainer)
    assert modes == [True] * 6


def test_a_cuda_graph_on_a_cpu_is_refused():
    with pytest.raises(ValueError, match=r"cuda_graph=true, engine.record\) needs a GPU"):
        make(cuda_graph=True)
