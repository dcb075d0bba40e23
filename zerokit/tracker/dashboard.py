"""The W&B workspace for zerokit's runs, as a plain specification and as wandb-workspaces builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Panel:
    """kind: "line" (metrics `y` over `x`; `group_by` a key of the config makes one line per value), "bar" (last values
    of `y` per run) or "scatter" (last values of the two metrics `x` and `y`, a point per run)."""

    kind: str
    title: str
    x: str
    y: tuple[str, ...]
    group_by: str | None = None


STEP, TOKENS = "trainer/step", "trainer/tokens"
SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Loss": (
        Panel("line", "Loss by stage", STEP, ("train/loss",), group_by="zero.stage"),
        Panel("line", "Loss over tokens", TOKENS, ("train/loss",)),
        Panel("line", "Held-out loss by stage", STEP, ("eval/loss",), group_by="zero.stage"),
        Panel("line", "Gradient norm before clipping", STEP, ("train/grad_norm",)),
        Panel("line", "Learning rate", STEP, ("optim/lr",)),
    ),
    "Throughput": (
        Panel("line", "Tokens per second and GPU", STEP, ("perf/tokens_per_sec_per_gpu",)),
        Panel("line", "Tokens per second and GPU, by stage", STEP, ("perf/tokens_per_sec_per_gpu",), "zero.stage"),
        Panel("line", "Model FLOPs utilisation, %", STEP, ("perf/mfu_pct",)),
        Panel("line", "Step time, s", STEP, ("perf/step_time_s",)),
        Panel("line", "Waiting for data, %", STEP, ("time/data_pct",)),
    ),
    "Memory": (
        Panel("bar", "Predicted against measured, GiB", "", ("memory/predicted_gib", "memory/max_allocated_gib")),
        Panel("scatter", "Predicted against measured", "memory/predicted_gib", ("memory/max_allocated_gib",)),
        Panel("scatter", "Throughput against memory", "memory/max_allocated_gib", ("perf/tokens_per_sec_per_gpu",)),
        Panel("line", "Peak of the ranks, GiB", STEP, ("memory/max_allocated_gib", "memory/min_allocated_gib")),
        Panel("line", "Reserved, GiB", STEP, ("memory/max_reserved_gib",)),
    ),
}
"""The workspace: names as in metrics.jsonl, sections in the order in which they are shown."""


def specification(project: str, entity: str | None, name: str) -> dict[str, Any]:
    """The workspace as plain values."""
    sections = [{"name": title, "panels": [vars(panel) for panel in panels]} for title, panels in SECTIONS.items()]
    return {"project": project, "entity": entity, "name": name, "sections": sections}


def build_workspace(project: str, entity: str, name: str) -> Any:
    """The workspace as wandb-workspaces has it, ready to be saved."""
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    def panel(spec: Panel) -> Any:
        if spec.kind == "bar":
            return reports.BarPlot(title=spec.title, metrics=list(spec.y), orientation="v")
        if spec.kind == "scatter":
            x, y = (reports.SummaryMetric(metric) for metric in (spec.x, *spec.y))
            return reports.ScatterPlot(title=spec.title, x=x, y=y)
        by = {} if spec.group_by is None else {"groupby": reports.Config(spec.group_by), "aggregate": True}
        return reports.LinePlot(title=spec.title, x=spec.x, y=list(spec.y), **by)

    sections = [
        workspaces.Section(name=title, panels=[panel(spec) for spec in panels], is_open=True)
        for title, panels in SECTIONS.items()
    ]
    return workspaces.Workspace(entity=entity, project=project, name=name, sections=sections)
