"""Parameters with values of their own, by name."""

from __future__ import annotations

import pytest
import torch

from tests.optimizer.training import Run, engine_of, train, weights
from zerokit.config import registry
from zerokit.config.errors import ConfigError
from zerokit.config.parse import parse_fields


def moved(name: str, options: dict, steps: int = 1) -> dict[str, torch.Tensor]:
    """How far each parameter went."""
    engine = engine_of(Run(name, options))
    before = weights(engine)
    train(engine, steps)
    return {key: value - before[key] for key, value in weights(engine).items()}


def test_a_factor_of_the_learning_rate_counts_for_the_parameters_that_match():
    options = {"lr": 0.01, "momentum": 0.0}
    plain = moved("sgd", options)
    grouped = moved("sgd", options | {"groups": [{"match": "blocks.0.*", "lr_factor": 0.5}]})
    for name, step in plain.items():
        factor = 0.5 if name.startswith("blocks.0.") else 1.0
        torch.testing.assert_close(grouped[name], factor * step, rtol=1e-4, atol=1e-7)


def test_the_first_group_that_matches_counts_and_a_list_of_patterns_is_any_of_them():
    groups = [
        {"match": ["*.norm.weight", "norm.*"], "lr_factor": 0.0},
        {"match": "*norm*", "lr_factor": 100.0},
        {"match": "head*", "lr_factor": 0.0},
    ]
    grouped = moved("adamw", {"lr": 0.01, "groups": groups})
    plain = moved("adamw", {"lr": 0.01})
    still = {name for name, step in grouped.items() if not step.any()}
    assert still == {*(f"blocks.{i}.norm.weight" for i in range(3)), "norm.weight", "norm.bias", "head.weight"}
    assert grouped["blocks.1.norm.bias"].abs().max() > 50 * plain["blocks.1.norm.bias"].abs().max()


def test_weight_decay_of_a_group_is_that_of_all_its_parameters():
    values = {"lr": 0.01, "weight_decay": 0.0}
    plain = engine_of(Run("adamw", values))
    start = weights(plain)
    one = moved("adamw", values)
    other = moved("adamw", values | {"groups": [{"match": "*norm*", "weight_decay": 0.5}]})
    for name, step in one.items():
        decay = 0.5 if "norm" in name else 0.0
        torch.testing.assert_close(other[name], step - 0.01 * decay * start[name], rtol=1e-4, atol=1e-7)


def test_betas_of_a_group():
    options = {"lr": 0.01, "groups": [{"match": "head*", "beta1": 0.0, "beta2": 0.5}]}
    changed, same = moved("adamw", options, 3), moved("adamw", {"lr": 0.01}, 3)
    assert not torch.equal(changed["head.weight"], same["head.weight"])


def test_a_group_may_keep_other_states():
    engine = engine_of(Run("sgd", {"momentum": 0.9, "groups": [{"match": "*", "momentum": 0.0}]}))
    assert engine.memory()["optimizer"] == 0
    half = engine_of(Run("sgd", {"momentum": 0.9, "groups": [{"match": "blocks*", "momentum": 0.0}]}))
    whole = engine_of(Run("sgd", {"momentum": 0.9}))
    assert 0 < half.memory()["optimizer"] < whole.memory()["optimizer"]


def test_tied_weights_match_by_any_of_their_names():
    engine = engine_of(Run("adamw", {"lr": 0.01, "groups": [{"match": "head.*", "lr_factor": 0.0}]}, model="tied"))
    before = weights(engine)
    train(engine, 1)
    assert torch.equal(weights(engine)["embed.weight"], before["embed.weight"])


def test_a_pattern_without_a_parameter_is_an_error_that_names_it():
    message = r"optimizer.groups\[1\].match: 'hed\*' matches no parameter of the model.*Names are such as"
    with pytest.raises(ConfigError, match=message):
        engine_of(Run("adamw", {"groups": [{"match": "head*"}, {"match": "hed*"}]}))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"lr_factor": 2.0}, r"optimizer.groups\[0\]: expected a name pattern match=PATTERN; got nothing"),
        ({"match": "a", "lr_fctor": 2.0}, r"Unknown key optimizer.groups\[0\].lr_fctor. Did you mean .*lr_factor"),
        ({"match": "a", "lr": 2.0}, r"Unknown key optimizer.groups\[0\].lr"),
        ({"match": "a", "beta1": 2.0}, r"optimizer.groups\[0\].beta1 must be in \[0, 1\)"),
        ({"match": "a", "lr_factor": "fast"}, r"optimizer.groups\[0\].lr_factor: expected a number"),
        ({"match": {}}, r"optimizer.groups\[0\].match\[0\]: expected a text"),
    ],
)
def test_what_a_group_cannot_say(group, message):
    kind = registry.options_type("optimizer", "adamw")
    with pytest.raises(ConfigError, match=message):
        parse_fields(kind, {"groups": [group]}, "optimizer")


def test_muon_leaves_vectors_embeddings_and_the_head_to_adamw():
    engine = engine_of(Run("muon", {"adamw_lr": 1e-3}))
    held = {}
    for part in engine.storage.states.slices():
        held.setdefault(part.parameter, set()).add(part.name)
    muon = {name for name, states in held.items() if states == {"momentum"}}
    assert muon == {f"blocks.{i}.{layer}.weight" for i in range(3) for layer in ("up", "down")}
    assert all(states == {"exp_avg", "exp_avg_sq"} for name, states in held.items() if name not in muon)


def test_a_schedule_may_set_the_momentum():
    fixed, other = (engine_of(Run("sgd", {"lr": 0.1, "momentum": m})) for m in (0.5, 0.9))
    other.set_momentum(0.5)
    for engine in (fixed, other):
        train(engine, 3)
    assert fixed.reader.sha256() == other.reader.sha256()
    other.set_momentum(None)
    train(fixed, 1, first=3)
    train(other, 1, first=3)
    assert fixed.reader.sha256() != other.reader.sha256()
