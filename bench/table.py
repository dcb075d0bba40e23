"""From the runs of a case to one row per system, in Markdown."""

from __future__ import annotations

from statistics import median
from typing import Any

HEADER = (
    "system", "step ms (p10–p90)", "tok/s/GPU", "TFLOP/s", "speed", "allocated GiB", "reserved", "device",
    "loss first → last", "start s", "runs",
)  # fmt: skip
PEAKS = ("allocated_gib", "reserved_gib", "device_gib")


def quantile(values: list[float], share: float) -> float:
    """Linear between neighbours, as numpy's default."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one system over all its runs of a case; `reason` alone if none succeeded."""
    good = [run for run in runs if run["status"] == "ok"]
    if not good:
        return {"reason": f"{runs[-1]['status']}: {runs[-1]['reason']}"}
    steps = [ms for run in good for ms in run["step_ms"]]
    step = median(steps)
    speed = good[0]["tokens_per_step"] / step * 1000
    peaks = {key: max(run[key] for run in good) if key in good[0] else None for key in (*PEAKS, "start_allocated_gib")}
    return {
        "step_ms": step,
        "p10_ms": quantile(steps, 0.1),
        "p90_ms": quantile(steps, 0.9),
        "round_ms": [median(run["step_ms"]) for run in good],
        "tokens_per_second": speed,
        "tflops": speed * good[0]["flops_per_token"] / 1e12,
        **peaks,
        "first_loss": good[0]["losses"][0],
        "last_loss": good[0]["losses"][-1],
        "startup_s": median(run["startup_s"] + run["warmup_s"] for run in good),
        "runs": f"{len(good)}/{len(runs)}",
    }


def loss_distance(runs: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> float | None:
    """Largest difference of two systems' losses at the same step; None if one has no losses."""
    curves = [next((run["losses"] for run in group if run["status"] == "ok"), None) for group in (runs, baseline)]
    if None in curves:
        return None
    return max(abs(a - b) for a, b in zip(*curves, strict=False))


def pick_baseline(systems: dict[str, dict[str, Any]], wanted: str | None) -> str | None:
    """The system that speeds are relative to: the wanted one, else the fastest FSDP2, else the first that ran."""
    ran = [name for name, row in systems.items() if "reason" not in row]
    if wanted in ran:
        return wanted
    fsdp = [name for name in ran if name.startswith("fsdp2")]
    if fsdp:
        return min(fsdp, key=lambda name: systems[name]["step_ms"])
    return ran[0] if ran else None


def ratios(systems: dict[str, dict[str, Any]], prefix: str) -> dict[str, dict[str, Any]]:
    """For every system that ran in both checkouts, this one's figures over the other's, whose names have the prefix.

    step_ms: of the medians over all steps; rounds: of those of each round; the peaks of memory, None where there are
    none.
    """
    pairs = {name: (row, systems.get(prefix + name)) for name, row in systems.items()}
    return {
        name: _ratio(new, old) for name, (new, old) in pairs.items() if old and "reason" not in new.keys() | old.keys()
    }


def _ratio(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    figures = {key: new[key] / old[key] if new[key] and old[key] else None for key in ("step_ms", *PEAKS)}
    return figures | {"rounds": [a / b for a, b in zip(new["round_ms"], old["round_ms"], strict=False)]}


def short(commit: str) -> str:
    """Twelve digits of a commit, and whether it was changed."""
    digits, dash, rest = commit.partition("-")
    return digits[:12] + dash + rest


def render(result: dict[str, Any]) -> str:
    """The table of one case's result file."""
    systems, facts, case = result["systems"], result["facts"], result["case"]
    base = result["baseline"]
    header = (*HEADER, "max loss difference") if result["curve"] else HEADER
    lines = [
        f"### {case['name']}, {result['nproc']} × {facts['gpu']}, {facts['date'][:16]}",
        "",
        f"torch {facts['torch']}, driver {facts['driver']}, commit {short(facts['commit'])}, {result['data']} tokens, "
        f"{result['precision']}; speed relative to {base}.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
    ]
    for name, row in systems.items():
        cells = [name, row["reason"]] if "reason" in row else _cells(name, row, systems[base], result["curve"])
        lines.append("| " + " | ".join([*cells, *[""] * (len(header) - len(cells))]) + " |")
    return "\n".join([*lines, *_against(result)]) + "\n"


def _against(result: dict[str, Any]) -> list[str]:
    """A line for every system that ran in both checkouts."""
    if "against" not in result:
        return []
    prefix, commit = result["against"]["prefix"], short(result["against"]["commit"])
    lines = ["", f"This checkout over {prefix} (commit {commit}), of medians and of peaks:", ""]
    for name, ratio in result["ratios"].items():
        rounds = ", ".join(f"{value:.3f}" for value in ratio["rounds"])
        memory = "; ".join(f"{key.removesuffix('_gib')} {ratio[key]:.3f}" for key in PEAKS if ratio[key] is not None)
        lines.append(f"- {name}: step {ratio['step_ms']:.3f} (by rounds {rounds}){'; ' if memory else ''}{memory}")
    return lines


def _cells(name: str, row: dict[str, Any], base: dict[str, Any], curve: bool) -> list[str]:
    cells = [
        name,
        f"{row['step_ms']:.1f} ({row['p10_ms']:.1f}–{row['p90_ms']:.1f})",
        f"{row['tokens_per_second']:,.0f}",
        f"{row['tflops']:.1f}",
        f"{base['step_ms'] / row['step_ms']:.3f}",
        *("–" if row[key] is None else f"{row[key]:.1f}" for key in PEAKS),
        f"{row['first_loss']:.4f} → {row['last_loss']:.4f}",
        f"{row['startup_s']:.0f}",
        row["runs"],
    ]
    if curve:
        cells.append("–" if row.get("loss_distance") is None else f"{row['loss_distance']:.2g}")
    return cells
