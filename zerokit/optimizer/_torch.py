"""A class of `torch.optim` as pure functions over pieces of flat shards.

What it keeps is found by running it once: tensors as long as the parameter become states, single numbers (such as the
step) become `kept` numbers of the hyperparameter group.
"""

from __future__ import annotations

import inspect
from collections import UserDict
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zerokit.config.errors import ConfigError, suggestion
from zerokit.optimizer._base import Optimizer, State

OWN = {"SGD": "sgd", "Adagrad": "adagrad", "Muon": "muon", "Adafactor": "adafactor"}
"""Classes that cannot run on pieces or would make a GPU's host wait, and zerokit's optimizer for each."""
ENGINE_ARGUMENTS = ("params", "lr", "weight_decay", "foreach", "fused", "capturable", "differentiable", "maximize")
PROBE = 6


class _FirstValues(UserDict):
    """A state that remembers the first value under each key."""

    def __init__(self) -> None:
        self.first: dict[str, Any] = {}
        super().__init__()

    def __setitem__(self, key: str, value: Any) -> None:
        self.first.setdefault(key, value.clone() if isinstance(value, Tensor) else value)
        super().__setitem__(key, value)


class TorchOptim(Optimizer):
    """Runs one step of the class on copies of the elements and states it is given.

    options: `type` (a name, or a class), `params`, `lr`, `weight_decay` (`zerokit.optimizer.torch.TorchOptions`).

    Raises:
        ConfigError: no such class or argument, or an element's step depends on more than that element.
    """

    compiles = False
    keeps_decay = True
    momentum = None

    def __init__(self, options: Any, weight_decay: float | None = None):
        super().__init__(options)
        self._decay = options.weight_decay if weight_decay is None else weight_decay
        self._class = _class_of(options.type)
        self._signature = inspect.signature(self._class).parameters
        self._check_arguments()
        self._names: list[str] = []
        self._kinds: dict[str, type] = {}  # of the numbers that are kept
        self._probe()

    @cached_property
    def _undecayed(self) -> TorchOptim:
        return TorchOptim(self.options, 0.0)

    def rule(self, name: str, ndim: int) -> TorchOptim:
        """The class takes its weight decay as a plain number: two rules, with it and without."""
        return self if ndim >= 2 or self.options.decay_norms_and_biases or not self._decay else self._undecayed

    def _refuse(self, why: str) -> ConfigError:
        return ConfigError(f"optimizer.type={self._class.__name__} {why}")

    def _check_arguments(self) -> None:
        allowed = [key for key in self._signature if key not in ENGINE_ARGUMENTS]
        for key in self.options.params:
            if key not in allowed:
                hint = suggestion(key, allowed, "optimizer.params.")
                raise ConfigError(
                    f"optimizer.params.{key}: {self.options.type} has no such argument.{hint} "
                    f"Arguments: {', '.join(allowed)}."
                )

    def _make(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        extra = {"weight_decay": self._decay, "capturable": parameter.is_cuda, "foreach": False}
        extra = {key: value for key, value in extra.items() if key in self._signature}
        lists = {key: tuple(v) if isinstance(v, list) else v for key, v in self.options.params.items()}
        return self._class([parameter], lr=self.options.lr, **lists, **extra)

    def _probe(self) -> None:
        """Learn what the class keeps, and that pieces of a parameter move as the whole does."""
        generator = torch.Generator().manual_seed(0)
        start, gradient = torch.randn(2, PROBE, generator=generator).unbind()
        first = self._first_values(start, gradient)
        constant = {key: value for key, value in first.items() if _is_number(value)}
        longer = {key: value for key, value in first.items() if key not in constant}
        for key, value in longer.items():
            if not isinstance(value, Tensor) or value.shape != start.shape:
                raise self._refuse(f"keeps '{key}', which is not one number per element: it cannot run on shards.")
        self.kept = {key: float(value) for key, value in constant.items()}
        self._kinds = {key: type(value) for key, value in constant.items()}
        self._names = list(longer)
        self.states = tuple(State(key, initial=self._initial(key, v, start)) for key, v in longer.items())
        whole = self._first_values(start, gradient, steps=3)["new"]
        parts = [self._first_values(start[cut], gradient[cut], steps=3)["new"] for cut in (slice(2), slice(2, None))]
        if not torch.equal(whole, torch.cat(parts)):
            raise self._refuse("does not move each element on its own: it cannot run on shards.")
        begun = tuple(start.clone() if s.initial == "parameter" else torch.full_like(start, s.initial)
                      for s in self.states)  # fmt: skip
        numbers = {key: torch.tensor(value) for key, value in {"lr": self.options.lr, **self.kept}.items()}
        if not torch.equal(
            self._step(start, gradient, begun, numbers)[0], self._first_values(start, gradient, 1)["new"]
        ):
            raise self._refuse("takes another first step with the first values of its states than without any.")

    def _first_values(self, start: Tensor, gradient: Tensor, steps: int = 0) -> dict[str, Any]:
        """First values of what the class keeps; with `steps` the values after them, as "new"."""
        parameter = nn.Parameter(start.clone())
        try:
            optimizer = self._make(parameter)
            early = dict(optimizer.state[parameter])
            optimizer.state[parameter] = state = _FirstValues()
            for key, value in early.items():
                state[key] = value
            for _ in range(steps or 1):
                parameter.grad = gradient.clone()
                optimizer.step()
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._refuse(f"cannot run on shards: {error}") from error
        return {"new": parameter.detach()} if steps else state.first

    def _initial(self, key: str, value: Tensor, start: Tensor) -> float | str:
        if torch.equal(value, start):
            return "parameter"
        if not torch.equal(value, value[:1].expand_as(value)):
            raise self._refuse(f"starts '{key}' from values that only the class itself knows.")
        return float(value[0])

    def scalars(self, now: Any) -> dict[str, Tensor]:
        """Learning rate and the numbers that are kept."""
        return {"lr": now.lr, **now.kept}

    def keep(self, now: Any) -> dict[str, Tensor]:
        """What a step of the class makes of the numbers that are kept."""
        if now.lr.is_meta:  # a run without values
            return dict(now.kept)
        one = torch.zeros(1, device=now.lr.device)
        s = {key: value.float() for key, value in self.scalars(now).items()}
        return self._step(one, one.clone(), tuple(one.clone() for _ in self._names), s)[2]

    def update(self, p: Tensor, g: Tensor, state: tuple[Tensor, ...], s: dict[str, Tensor]) -> tuple[Tensor, tuple]:
        """New values and states of elements `p` with gradients `g`, all (n,) fp32."""
        return self._step(p, g, state, s)[:2]

    def _number(self, key: str, value: Tensor) -> Any:
        """A number that is kept as the class keeps it."""
        kind = self._kinds[key]
        return value.clone() if issubclass(kind, Tensor) else kind(round(float(value)) if kind is int else value)

    def _step(self, p: Tensor, g: Tensor, state: tuple[Tensor, ...], s: dict[str, Tensor]) -> tuple:
        parameter = nn.Parameter(p.clone())
        parameter.grad = g.clone()
        optimizer = self._make(parameter)
        optimizer.param_groups[0]["lr"] = s["lr"] if p.is_cuda else float(s["lr"])
        values = optimizer.state[parameter]
        values.update({key: value.clone() for key, value in zip(self._names, state, strict=True)})
        values.update({key: self._number(key, s[key]) for key in self.kept})
        optimizer.step()
        kept = {key: torch.as_tensor(values[key], device=p.device).double() for key in self.kept}
        return parameter.detach(), tuple(values[key] for key in self._names), kept


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)


def _class_of(name: str | type) -> type:
    if inspect.isclass(name):
        return name
    classes = {
        key: value
        for key, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    if name not in classes:
        raise ConfigError(
            f"optimizer.type={name}: torch.optim has no such class.{suggestion(name, classes, 'optimizer.type=')} "
            f"Classes: {', '.join(sorted(classes))}."
        )
    if name in OWN:
        raise ConfigError(f"optimizer.type={name}: choose zerokit's own optimizer={OWN[name]}.")
    return classes[name]
