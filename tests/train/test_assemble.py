"""What a configuration becomes: decay groups, wrapped blocks, formats, the loss, a whole trainer."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.config.arguments import config
from tests.ranks import run_ranks
from tests.zero.models import MODELS, Language
from tests.zero.training import make_optimizer
from zerokit.comm import Communicator
from zerokit.train.assemble import assemble, build_engine, build_model, numerics, wrap_blocks
from zerokit.train.forward import loss_function
from zerokit.zero.engine import Engine
from zerokit.zero.placement import STAGES

CPU = torch.device("cpu")
VECTORS = ("model=mlp", "data=synthetic", "data.task=regression")


@pytest.fixture(autouse=True)
def deterministic_as_before():
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


# -- weight decay ----------------------------------------------------------------------------------------------------


def decayed(*words: str) -> set[str]:
    """Parameters that a step with gradients of zero makes smaller."""
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    cfg = config("optimizer=sgd", "optimizer.lr=0.5", "optimizer.weight_decay=0.5", *words)
    engine = build_engine(model, cfg, Communicator(CPU), accumulation=1)
    engine.backward(engine(torch.arange(3)).sum() * 0)
    engine.step()
    values = engine.full_state_dict()
    assert all(set(value.flatten().tolist()) <= {0.75, 1.0} for value in values.values())
    return {name for name, value in values.items() if value.flatten()[0] == 0.75}


def test_matrices_decay_and_norms_and_biases_do_not():
    assert decayed() == {"0.weight", "1.weight"}


def test_norms_and_biases_decay_if_asked():
    asked = decayed("optimizer.decay_norms_and_biases=true")
    assert asked == {"0.weight", "1.weight", "1.bias", "2.weight", "2.bias"}


# -- blocks ----------------------------------------------------------------------------------------------------------


class WithUnits(Language):
    def units(self) -> list[nn.Module]:
        return [self.embed, *self.blocks, self.head]


class FakeCompile:
    """Takes the place of torch.compile: notes what is compiled, and counts the calls of each."""

    def __init__(self):
        self.calls, self.backends = [], set()

    def __call__(self, forward, backend):
        index = len(self.calls)
        self.calls.append(0)
        self.backends.add(backend)

        def compiled(*args, **kwargs):
            self.calls[index] += 1
            return forward(*args, **kwargs)

        compiled.is_compiled = True
        return compiled


@pytest.fixture
def compiler(monkeypatch) -> FakeCompile:
    fake = FakeCompile()
    monkeypatch.setattr(torch, "compile", fake)
    return fake


def wrapped(*words: str, model: nn.Module | None = None, device: torch.device = CPU) -> nn.Module:
    model = model or WithUnits()
    wrap_blocks(model, config(*words), device)
    return model


def compiled_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if hasattr(module.forward, "is_compiled")]


def runs(model: nn.Module) -> list[int]:
    """How often the norm of each block runs in one forward and backward."""
    counts = [0] * len(model.blocks)

    def count(index):
        def hook(*_):
            counts[index] += 1

        return hook

    for index, block in enumerate(model.blocks):
        block.norm.register_forward_pre_hook(count(index))
    model(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64)).backward()
    return counts


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["checkpointing=none"], [1, 1, 1]),
        (["checkpointing=full"], [2, 2, 2]),
        (["checkpointing=every_k", "checkpointing.k=2"], [2, 1, 2]),
    ],
)
def test_blocks_are_recomputed_as_asked(words, expected):
    assert runs(wrapped(*words)) == expected


@pytest.mark.parametrize(
    ("word", "device", "expected"),
    [
        ("null", "cpu", False),
        ("false", "cpu", False),
        ("true", "cpu", True),
        ("null", "cuda", True),
        ("false", "cuda", False),
    ],
)
def test_blocks_are_compiled_if_asked_and_by_default_on_a_gpu(word, device, expected, compiler):
    model = wrapped(f"train.compile={word}", device=torch.device(device))
    assert compiled_names(model) == (["blocks.0", "blocks.1", "blocks.2", "head"] if expected else [])


def test_the_backend_of_the_compiler_is_the_configured_one(compiler):
    wrapped("train.compile=true", "train.compile_backend=aot_eager")
    assert compiler.backends == {"aot_eager"}


def test_recomputation_lies_inside_what_is_compiled(compiler):
    assert runs(wrapped("train.compile=true", "checkpointing=full")) == [2, 2, 2]
    assert compiler.calls == [1, 1, 1, 1]


def test_a_module_around_other_units_is_not_compiled(compiler):
    model = wrapped("train.compile=true", model=MODELS["nested"]())
    assert compiled_names(model) == ["blocks.0.inner", "blocks.1.inner"]


def test_a_module_around_units_of_the_config_is_not_compiled(compiler):
    model = wrapped("train.compile=true", "zero.units=[blocks.1,blocks.1.up]")
    assert compiled_names(model) == ["blocks.0", "blocks.2", "head"]


def test_a_module_whose_class_says_so_is_not_compiled(compiler, monkeypatch):
    model = WithUnits()
    monkeypatch.setattr(type(model.head), "compiles", False, raising=False)
    assert "head" not in compiled_names(wrapped("train.compile=true", model=model))


# -- the loss --------------------------------------------------------------------------------------------------------


def refuse(*_):
    raise AssertionError("the other loss was wanted")


def test_a_model_that_takes_targets_has_its_own_loss():
    engine = Engine(Language(), make_optimizer("sgd"))
    tokens, targets = torch.randint(23, (2, 2, 5), generator=torch.Generator().manual_seed(0))
    loss = loss_function(engine, SimpleNamespace(loss=refuse))
    assert torch.equal(loss(tokens, targets), engine(tokens, targets))


def test_the_data_have_the_loss_of_any_other_model():
    engine = Engine(nn.Linear(3, 1), make_optimizer("sgd"))
    inputs, targets = torch.randn(4, 3), torch.randn(4, 1)
    loss = loss_function(engine, SimpleNamespace(loss=lambda outputs, t: (outputs - 2 * t).sum()))
    assert torch.equal(loss(inputs, targets), (engine(inputs) - 2 * targets).sum())


# -- everything ------------------------------------------------------------------------------------------------------


def test_formats_follow_the_precision():
    made = numerics(config("precision=bf16", "precision.reduce_dtype=bf16"), CPU)
    assert (made.compute, made.master, made.scaler) == (torch.bfloat16, "split", None)
    assert (made.accumulate, made.reduce) == (torch.float32, torch.bfloat16)
    made = numerics(config("precision=fp16", "precision.initial_scale=128.0"), CPU)
    assert made.compute == torch.float16 and float(made.scaler.scale) == 128


def test_the_values_of_a_config_reach_the_parts():
    words = ("zero.stage=3", "train.clip_norm=0.25", "train.max_skips=3", "train.steps=8", "optimizer.lr=0.125")
    batch = ("batch.global=8", "batch.micro=2", "launch.nproc=1", "scheduler=linear", "scheduler.warmup=0")
    trainer = assemble(config(*VECTORS, *words, *batch), Communicator(CPU))
    engine, loader = trainer.engine, trainer.loader
    assert engine.declared is STAGES[3]
    assert (engine.clip_norm, engine.max_skips, engine.accumulation, engine.lr) == (0.25, 3, 4, 0.125)
    assert (loader.micro, loader.rank, loader.world, trainer.batch.global_) == (2, 0, 1, 8)
    assert [trainer.schedule(step).lr for step in (0, 4)] == [0.125, 0.0625]
    assert trainer.options.steps == 8


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["zero.min_unit=0"], ["root", "blocks.0", "head"]),
        (["zero.min_unit=600"], ["root"]),
    ],
)
def test_units_of_the_config_reach_the_engine(words, names):
    cfg = config("zero.units=[blocks.0,head]", "zero.stage=3", *words)
    engine = build_engine(Language(dim=8, depth=2), cfg, Communicator(CPU), accumulation=1)
    assert [unit.name for unit in engine.units] == names


def test_a_model_that_cannot_be_built_for_the_data_says_what_they_are():
    with pytest.raises(AttributeError) as raised:
        build_model(config("model=mlp", "data=synthetic", "data.task=regression"), None)
    assert raised.value.__notes__ == ["model=mlp was built for data=synthetic: None"]


def test_the_seed_decides_on_weights_and_order():
    def made(seed: int) -> tuple:
        trainer = assemble(config(*VECTORS, f"train.seed={seed}"), Communicator(CPU))
        return trainer.engine.reader.sha256(), next(trainer.loader.from_micro_batch(0))[0].sum().item()

    first, again, other = made(0), made(0), made(1)
    assert first == again and first[0] != other[0] and first[1] != other[1]


@pytest.mark.parametrize("wanted", [True, False])
def test_determinism_is_switched_on_and_off(wanted):
    torch.use_deterministic_algorithms(not wanted)
    assemble(config(*VECTORS, f"train.deterministic={str(wanted).lower()}"), Communicator(CPU))
    assert torch.are_deterministic_algorithms_enabled() is wanted


def of_this_rank(*words: str) -> tuple:
    trainer = assemble(config(*VECTORS, "batch.global=8", *words), Communicator(CPU))
    inputs = next(trainer.loader.from_micro_batch(0))[0]
    return torch.rand(1).item(), inputs.tolist(), trainer.engine.reader.sha256()


def test_ranks_have_the_same_weights_and_other_samples_and_dropout():
    first, second = run_ranks(of_this_rank, 2)
    assert first[0] != second[0] and first[1] != second[1] and first[2] == second[2]
    assert len(first[1]) == len(second[1]) == 4


def test_every_global_generator_is_seeded():
    """What a script draws from Python's or NumPy's generator is the same in every run of a seed."""
    numpy = pytest.importorskip("numpy")

    def draw(number: int) -> tuple[float, float, float]:
        random.seed()
        numpy.random.seed()
        assemble(config(*VECTORS, "launch.device=cpu", f"train.seed={number}"), Communicator(CPU))
        return torch.rand(()).item(), random.random(), numpy.random.rand()

    first, again, other = draw(1), draw(1), draw(2)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
