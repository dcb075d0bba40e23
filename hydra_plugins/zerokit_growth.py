"""Hydra finds its plugins in this namespace: the sweeper that grows a model, `hydra/sweeper=zerokit_growth`."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GrowthSweeper(Sweeper):
    """Raises one option until the cell no longer fits into memory, for each combination of the others.

    Args:
        params: sweeps of other options, as Hydra's own sweeper takes them.
        key: the option that makes the model larger, a whole number.
        start: its first value; it doubles until a cell does not fit.
        most: its largest value.
        accuracy: the search ends when the smallest that did not fit is at most so many times the largest that did.
    """

    def __init__(self, params: dict[str, str] | None, key: str, start: int, most: int, accuracy: float) -> None:
        self._params, self._options = params or {}, {"start": start, "most": most, "accuracy": accuracy}
        self._key = key

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher of the cells."""
        from hydra.core.plugins import Plugins

        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Search in rounds: each launches the next cell of every combination that is not decided yet."""
        from zerokit.sweep.growth import search

        words = [*(f"{key}={value}" for key, value in self._params.items()), *arguments]
        return search(self._launcher, words, self._key, **self._options)


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="zerokit_growth",
    node={
        "_target_": "hydra_plugins.zerokit_growth.GrowthSweeper",
        "params": None,
        "key": "model.layers",
        "start": 1,
        "most": 4096,
        "accuracy": 1.1,
    },
    provider="zerokit",
)
