"""What a random program is: plain data that a seed determines, from which model and script are built."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

BODIES = (
    "linear", "view", "transposed", "mlp", "layernorm", "conv", "attention", "encoder_layer", "lstm", "packed_lstm",
    "batchnorm", "positions", "mutating", "relu_inside", "nested", "sequential", "shared_inside", "weight_norm",
    "spectral_norm", "weight_parametrization", "spectral_parametrization", "saved_by_function", "kept_by_function",
    "detached_path", "bilinear", "gated_output", "own_parameter", "derived_weight", "sliced_weight", "lora",
    "running_mean",
)  # fmt: skip
"""What a block computes, from (batch, time, dim) to the same shape; the classes of `modules`."""
PACKS = (
    "tuple", "list", "dict", "dataclass", "object", "object_in_and_out", "distribution", "with_input", "two_views",
    "packed_sequence",
)  # fmt: skip
"""What a block hands its output out in (`object_in_and_out`, `packed_sequence`: and gets its input in); a bare tensor
otherwise."""
INPLACE = ("add_", "mul_", "relu_", "tanh_", "copy_slice_", "add_inner_view_")
"""What happens in place to a block's output, by those who called it."""
USES = ("hook", "inner_hook", "probe", "seen", "pre_hook")
"""What else of a block enters the loss: features that a forward hook of the block or of its inside keeps (`probe`:
while its output goes unused) or an attribute (`seen`), or what a forward pre-hook of the model makes of its weights."""
CHECKPOINTS = ("reentrant", "nonreentrant", "inner_reentrant", "inner_nonreentrant")
"""PyTorch's own activation checkpoint around a block, or around the body inside it."""
EXTRAS = (
    "tied_head", "tied_by_hand", "raw_weight", "raw_stem", "root_parameter", "segment_reentrant",
    "segment_nonreentrant", "contrastive", "two_heads", "two_forwards_two_backwards", "eval_between", "eval_inside",
    "inference_between", "encode", "read_weights", "input_gradient", "plain_backward", "dropout", "mask", "experts",
    "unfreeze", "frozen_stem", "unused_module", "whole_weights", "cycle", "tied_blocks",
    "registered_twice", "deep_copy", "autocast",
    "gradient_penalty", "replaced", "loaded",
)  # fmt: skip
"""Features of the model as a whole and of its script; `build` and `script` say what each is."""
RARE = frozenset({
    "raw_weight", "tied_by_hand", "experts", "read_weights", "encode", "unfreeze", "deep_copy", "gradient_penalty",
})  # fmt: skip
"""Features that zerokit may refuse, which would keep the rest of the program from being tried."""
OUTPUTS = ("tensor", "tuple", "dict", "dataclass", "object", "distribution")
STEMS = ("linear", "embedding", "padding")
UNITS = ("Linear", "Chain", "*")
PRECISIONS = ("fp32", "bf16", "fp16")
CHECKPOINTING = ("none", "full", "selective", "every_k")
CONTAINERS = ("list", "sequential", "dict", "rows", "stages", "plain_attributes")


@dataclass(frozen=True)
class Block:
    """One block of a chain, and how it is used."""

    body: str = "linear"
    pack: str = ""
    inplace: str = ""
    use: str = ""
    checkpoint: str = ""
    frozen: bool = False
    dropped: bool = False  # left out in every other step, on all ranks
    again: bool = False  # runs a second time, at the end of the chain

    def features(self) -> Iterator[str]:
        """Names of what the block has."""
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value:
                yield item.name if value is True else f"{item.name}:{value}"


@dataclass(frozen=True)
class Program:
    """A model, a script and how they run."""

    seed: int
    stage: int = 0
    world: int = 2
    precision: str = "fp32"
    prefetch: int = 1
    optimizer: str = "sgd"
    steps: int = 2
    accumulation: int = 1
    clip_norm: float | None = None
    checkpointing: str = "none"
    units: str = ""
    container: str = "list"
    stem: str = "linear"
    output: str = "tensor"
    blocks: tuple[Block, ...] = field(default_factory=tuple)
    extras: frozenset[str] = frozenset()

    def features(self) -> list[str]:
        """Names of what the program has, sorted."""
        found = {
            f"{name}:{getattr(self, name)}"
            for name in ("stage", "world", "precision", "prefetch", "optimizer", "accumulation", "checkpointing",
                         "container", "stem", "output")
        }  # fmt: skip
        found |= {"clip_norm"} if self.clip_norm else set()
        found |= {f"units:{self.units}"} if self.units else set()
        return sorted(found | self.extras | {name for block in self.blocks for name in block.features()})

    def __str__(self) -> str:
        """The program in a few lines, without what is as always."""
        plain = Program(self.seed)
        told = [
            f"{item.name}={getattr(self, item.name)}"
            for item in dataclasses.fields(self)
            if item.name not in ("seed", "blocks", "extras") and getattr(self, item.name) != getattr(plain, item.name)
        ]
        blocks = [f"    block {i}: {' '.join(block.features())}" for i, block in enumerate(self.blocks)]
        extras = [f"    with {', '.join(sorted(self.extras))}"] if self.extras else []
        return "\n".join([f"seed {self.seed}: {' '.join(told)}", *blocks, *extras])


class _Dice(random.Random):
    def maybe(self, chance: float, values: tuple[str, ...]) -> str:
        """One of `values`, or with the rest of the chance nothing."""
        return self.choice(values) if self.random() < chance else ""


def generate(seed: int) -> Program:
    """The program of a seed."""
    dice = _Dice(seed)
    # Half of the programs are rich in features, half have few: a refusal or an early fault hides the others.
    rate = dice.choice((0.06, 0.2))
    blocks = tuple(_block(dice, rate) for _ in range(dice.randint(2, 6)))
    # A bias before a BatchNorm has no gradient but rounding: bf16 makes it as large as others, Adam a step of any size.
    normed = any(block.body == "batchnorm" for block in blocks)
    extras = frozenset(name for name in EXTRAS if dice.random() < rate * (0.2 if name in RARE else 0.7))
    # Half precision outside of autocast, which knows bfloat16 on a CPU, is an error of PyTorch's.
    precisions = ("fp32",) if normed else ("fp32", "fp32", "bf16", "bf16") if "autocast" in extras else PRECISIONS
    return Program(
        seed,
        stage=dice.choice((0, 1, 2, 3, 3, 3, 3)),
        world=dice.choice((1, 2, 2, 2, 3)),
        precision=dice.choice(precisions),
        prefetch=dice.randint(0, 2),
        optimizer="sgd" if normed else dice.choice(("sgd", "adamw")),
        steps=dice.randint(2, 4),
        accumulation=2 if "two_forwards_two_backwards" in extras else dice.choice((1, 1, 2, 3)),
        clip_norm=dice.choice((None, None, None, 0.3)),
        checkpointing=dice.choice(("none", "none", *CHECKPOINTING)),
        units=dice.maybe(rate, UNITS),
        container=dice.choice(CONTAINERS),
        stem=dice.choice(("linear", *STEMS)),
        output=dice.choice(OUTPUTS) if dice.random() < 2 * rate else "tensor",
        blocks=blocks,
        extras=extras,
    )


def _block(dice: _Dice, rate: float) -> Block:
    return Block(
        body=dice.choice(BODIES) if dice.random() < 0.7 else "linear",
        pack=dice.maybe(rate, PACKS),
        inplace=dice.maybe(rate, INPLACE),
        use=dice.maybe(rate, USES),
        checkpoint=dice.maybe(rate, CHECKPOINTS),
        frozen=dice.random() < rate / 2,
        dropped=dice.random() < rate / 2,
        again=dice.random() < rate / 2,
    )


def singles(**base: Any) -> Iterator[Program]:
    """Programs with one feature each, amid plain blocks and otherwise as `base` says."""
    plain = Program(0, blocks=(Block(),) * 4, **base)
    choices = {"body": BODIES, "pack": PACKS, "inplace": INPLACE, "use": USES, "checkpoint": CHECKPOINTS}
    choices |= dict.fromkeys(("frozen", "dropped", "again"), (True,))
    for name, values in choices.items():
        for value in values:
            yield dataclasses.replace(plain, blocks=(Block(), *(Block(**{name: value}),) * 3))
    for name in EXTRAS:
        yield dataclasses.replace(plain, extras=frozenset({name}))
    choices = {"output": OUTPUTS, "container": CONTAINERS, "stem": STEMS, "units": UNITS, "precision": PRECISIONS,
               "checkpointing": CHECKPOINTING, "accumulation": (3,), "prefetch": (0, 2), "clip_norm": (0.3,),
               "world": (1, 3), "optimizer": ("adamw",)}  # fmt: skip
    for name, values in choices.items():
        for value in values:
            yield dataclasses.replace(plain, **{name: value})


def smaller(program: Program) -> Iterator[Program]:
    """The program with one thing less, for every such thing; the greatest ones first."""
    for index in range(len(program.blocks)) if len(program.blocks) > 1 else ():
        yield dataclasses.replace(program, blocks=program.blocks[:index] + program.blocks[index + 1 :])
    for extra in sorted(program.extras):
        yield dataclasses.replace(program, extras=program.extras - {extra})
    for name, value in _without(program, Program(program.seed)):
        yield dataclasses.replace(program, **{name: value})
    for index, block in enumerate(program.blocks):
        for name, value in _without(block, Block()):
            changed = dataclasses.replace(block, **{name: value})
            yield dataclasses.replace(program, blocks=(*program.blocks[:index], changed, *program.blocks[index + 1 :]))


def _without(whole: Program | Block, plain: Program | Block) -> Iterator[tuple[str, object]]:
    for item in dataclasses.fields(whole):
        value = getattr(plain, item.name)
        if item.name not in ("seed", "stage", "blocks", "extras") and getattr(whole, item.name) != value:
            yield item.name, value
