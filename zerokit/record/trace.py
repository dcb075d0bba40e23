"""What a trace of the profiler says: the costliest kernels, and how much of the communication is hidden.

Pure arithmetic over the events of a Chrome trace as torch.profiler writes it. Imports no torch. Times are microseconds
as in the trace, results milliseconds.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Intervals = list[tuple[float, float]]

STREAM_MARK = "zerokit: communication stream"
"""Annotation around one kernel on each stream of communication, by which the trace's numbers of streams are known."""

DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")
COLLECTIVES = re.compile(r"nccl|rccl|barrier_kernel|(put|wait)_signal_kernel|PtoP", re.IGNORECASE)
"""Kernels and copies that are communication on whatever stream they run."""
GLOO = "gloo:"
CALLS = "c10d::"


def load_events(path: Path) -> list[Event]:
    """The events of a trace (.json or .json.gz) that have a duration."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X" and "dur" in event]


def analyse(events: list[Event], steps: int, top: int = 10) -> dict[str, Any]:
    """Figures of a trace of `steps` steps.

    device: "gpu" if the trace has kernels, else "cpu". span_ms: from the first to the last event counted, per step.
    communication_ms: time in which communication ran, per step; exposed_ms: the part of it in which no computation ran
    beside it; exposed_pct: that part of communication_ms (None without communication). kernels: the `top` costliest by
    summed time (on a CPU, operators by their own time without the operators they call): name, kind, calls per step,
    ms per step, pct of all of them.
    """
    on_gpu = any(event.get("cat") in DEVICE for event in events)
    rows = _gpu_rows(events) if on_gpu else _cpu_rows(events)
    communication = union((start, stop) for _, kind, start, stop, _ in rows if kind == "communication")
    computation = union((start, stop) for _, kind, start, stop, _ in rows if kind == "computation")
    total, exposed = length(communication), length(subtract(communication, computation))
    span = max((row[3] for row in rows), default=0.0) - min((row[2] for row in rows), default=0.0)
    return {
        "device": "gpu" if on_gpu else "cpu",
        "steps": steps,
        "span_ms": span / 1000 / steps,
        "communication_ms": total / 1000 / steps,
        "exposed_ms": exposed / 1000 / steps,
        "exposed_pct": 100 * exposed / total if total else None,
        "kernels": _costliest(rows, steps, top),
    }


def union(intervals: Iterable[tuple[float, float]]) -> Intervals:
    """The same points as disjoint intervals by rising start."""
    merged: Intervals = []
    for start, stop in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        elif stop > start:
            merged.append((start, stop))
    return merged


def subtract(intervals: Intervals, holes: Intervals) -> Intervals:
    """The points of `intervals` that are in none of `holes`; both disjoint and by rising start."""
    left: Intervals = []
    first = 0
    for start, stop in intervals:
        while first < len(holes) and holes[first][1] <= start:
            first += 1
        place = first
        while place < len(holes) and holes[place][0] < stop:
            if holes[place][0] > start:
                left.append((start, holes[place][0]))
            start = max(start, holes[place][1])
            place += 1
        if start < stop:
            left.append((start, stop))
    return left


def length(intervals: Intervals) -> float:
    """The sum of the lengths of disjoint intervals."""
    return sum(stop - start for start, stop in intervals)


# -- rows: (name, kind, start, stop, own time) -------------------------------------------------------------------------

Row = tuple[str, str, float, float, float]


def _gpu_rows(events: list[Event]) -> list[Row]:
    streams = _marked_streams(events)
    rows = []
    for event in events:
        if event.get("cat") in DEVICE:
            copies = event["cat"] == "gpu_memcpy" and stream_of(event) in streams
            kind = "communication" if copies or COLLECTIVES.search(event["name"]) else "computation"
            rows.append((event["name"], kind, event["ts"], event["ts"] + event["dur"], event["dur"]))
    return rows


def _marked_streams(events: list[Event]) -> set[Any]:
    """The streams on which the kernels run that were launched inside a mark."""
    marks = [event for event in events if event["name"] == STREAM_MARK and event.get("cat") == "user_annotation"]
    launched = {
        event["args"].get("correlation")
        for event in events
        if event.get("cat") in LAUNCHES and any(_inside(event, mark) for mark in marks)
    } - {None}
    return {stream_of(e) for e in events if e.get("cat") in DEVICE and e.get("args", {}).get("correlation") in launched}


def _inside(event: Event, mark: Event) -> bool:
    same = event.get("tid") == mark.get("tid")
    return same and mark["ts"] <= event["ts"] <= mark["ts"] + mark["dur"]


def stream_of(event: Event) -> tuple[Any, Any]:
    """Device and stream that an event of a device ran on."""
    args = event.get("args", {})
    device = args.get("device", args.get("inDevice"))  # the latter of copies between devices
    return device, args.get("stream", event.get("tid"))


def _cpu_rows(events: list[Event]) -> list[Row]:
    """Operators and collectives with their own time. On gloo's threads everything is communication."""
    threads: dict[Any, list[Event]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "cpu_op" or event["name"].startswith(GLOO):
            threads[event.get("tid")].append(event)
    rows = []
    for members in threads.values():
        of_gloo = any(event["name"].startswith(GLOO) for event in members)
        for event, own in own_times(members):
            # A call only hands its tensors to gloo's thread: it is neither.
            call = event["name"].startswith(CALLS)
            kind = "communication" if of_gloo else "call" if call else "computation"
            rows.append((event["name"], kind, event["ts"], event["ts"] + event["dur"], own))
    return rows


def own_times(events: list[Event]) -> list[tuple[Event, float]]:
    """Each event of one thread with the part of its time that is in none of the events inside it."""
    order = sorted(events, key=lambda event: (event["ts"], -event["dur"]))
    own = [event["dur"] for event in order]
    open_events: list[int] = []
    for index, event in enumerate(order):
        while open_events and event["ts"] >= order[open_events[-1]]["ts"] + order[open_events[-1]]["dur"]:
            open_events.pop()
        if open_events:
            own[open_events[-1]] -= event["dur"]
        open_events.append(index)
    return [(event, max(0.0, time)) for event, time in zip(order, own, strict=True)]


def _costliest(rows: list[Row], steps: int, top: int) -> list[dict[str, Any]]:
    time: dict[tuple[str, str], float] = defaultdict(float)
    calls: dict[tuple[str, str], int] = defaultdict(int)
    for name, kind, _, _, own in rows:
        time[name, kind] += own
        calls[name, kind] += 1
    whole = sum(time.values())
    order = sorted(time, key=lambda key: (-time[key], key))[:top]
    return [
        {
            "name": name,
            "kind": kind,
            "calls": calls[name, kind] / steps,
            "ms": time[name, kind] / 1000 / steps,
            "pct": 100 * time[name, kind] / whole if whole else 0.0,
        }
        for name, kind in order
    ]
