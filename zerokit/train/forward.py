"""How a model is called with a batch: a pair by place, a mapping by the names of its forward.

[Note: which target belongs to which place] A pair's targets belong to the outputs at their own places: a source of
tokens has shifted them. A mapping's `labels` stand at the places of their own tokens, as Hugging Face has them: a
causal model predicts those at t from what is before t, and shifts by itself; its class says `shifts_labels = True`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from zerokit.config.errors import ConfigError
from zerokit.train.loader import Inputs
from zerokit.zero.engine import Engine


def loss_function(engine: Engine, source: Any) -> Callable[[Inputs, Tensor], Tensor]:
    """inputs, targets → mean loss (0-dim): by the model itself if its forward takes `targets` (of pairs) or `labels`
    (of mappings), else by the data's loss of its logits."""
    parameters = inspect.signature(engine.module.forward).parameters
    names = None if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else set(parameters)

    def takes(name: str) -> bool:
        return names is None or name in names

    def loss(inputs: Inputs, targets: Tensor) -> Tensor:
        if not isinstance(inputs, Mapping):
            if "targets" in parameters:
                return engine(inputs, targets=targets)
            return source.loss(logits_of(engine(inputs)), targets)
        if unknown := [name for name in inputs if not takes(name)]:
            raise ConfigError(
                f"data: a batch has {', '.join(unknown)}, which the forward of {type(engine.module).__name__} does not "
                f"take; it takes {', '.join(parameters)}."
            )
        if takes("labels"):
            return loss_of(engine(**inputs, labels=targets))
        return source.loss(logits_of(engine(**inputs)), targets)

    return loss


def prediction(engine: Engine, source: Any) -> Callable[[Inputs, Tensor], tuple[Tensor, Tensor]] | None:
    """inputs, targets → the data's mean loss (0-dim) and the logits; None where the data are for something else than
    classes and masked tokens."""
    if source.info.task not in ("classification", "masked"):
        return None

    def predict(inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(engine(**inputs) if isinstance(inputs, Mapping) else engine(inputs))
        return source.loss(logits, targets), logits

    return predict


def loss_of(outputs: Any) -> Tensor:
    """The loss in what a model returns: a tensor, or what it calls `loss`.

    Raises:
        ConfigError: there is none.
    """
    loss = outputs if isinstance(outputs, Tensor) else _named(outputs, "loss")
    if loss is None:
        raise ConfigError(f"model: it was given labels and returned no loss, but {type(outputs).__name__}.")
    return loss


def logits_of(outputs: Any) -> Any:
    """The logits in what a model returns: what it calls so, or all of it."""
    logits = None if isinstance(outputs, Tensor) else _named(outputs, "logits")
    return outputs if logits is None else logits


def _named(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
