"""Hydra finds its plugins in this namespace: the launcher of zerokit's sweeps, `hydra/launcher=zerokit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

    from zerokit.sweep.predict import Forecast


class ZerokitLauncher(Launcher):
    """Runs each job of a sweep in a process of its own and shows all of them in a table; see zerokit/sweep."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives every launcher."""
        # Hydra imports all plugins at every start, also for --help.
        from zerokit.sweep.sweep import Sweep

        self._sweep = Sweep(hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs with the given overrides; a search calls it once for each batch."""
        return self._sweep.launch(job_overrides, initial_job_idx)

    def forecast(self, overrides: Sequence[str]) -> Forecast | None:
        """Return what is predicted of a job, or None where predictions decide nothing."""
        return self._sweep.forecast(overrides)

    def conclude(self, line: str) -> None:
        """Say a line at the end of the sweep."""
        self._sweep.conclusions.append(line)


# No options of its own: `sweep.parallel` and the like are options of zerokit.
ConfigStore.instance().store(
    group="hydra/launcher",
    name="zerokit",
    node={"_target_": "hydra_plugins.zerokit_launcher.ZerokitLauncher"},
    provider="zerokit",
)
