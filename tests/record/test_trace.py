from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerokit.record.trace import STREAM_MARK, analyse, length, load_events, own_times, stream_of, subtract, union

POINTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)).map(lambda p: (p[0], p[0] + p[1])), max_size=8)


def covered(intervals) -> set[int]:
    return {point for start, stop in intervals for point in range(start, stop)}


@given(POINTS, POINTS)
def test_intervals_are_sets_of_points(a, b):
    assert covered(union(a)) == covered(a)
    assert length(union(a)) == len(covered(a))
    rest = subtract(union(a), union(b))
    assert covered(rest) == covered(a) - covered(b)
    assert length(rest) == len(covered(a) - covered(b))


def kernel(name, start, dur, stream, correlation=0, cat="kernel"):
    args = {"device": 0, "stream": stream, "correlation": correlation}
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": dur, "tid": stream, "args": args}


def operator(name, start, dur, tid=1, cat="cpu_op"):
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": dur, "tid": tid, "args": {}}


def test_a_copy_between_devices_has_the_stream_of_the_device_it_runs_on():
    copy = {"args": {"fromDevice": 1, "inDevice": 0, "toDevice": 0, "stream": 20}}
    assert stream_of(copy) == stream_of(kernel("gemm", 0, 1, 20)) == (0, 20)


def test_communication_of_a_gpu_is_hidden_where_another_kernel_runs():
    events = [
        kernel("gemm", 0, 1000, 7),
        kernel("ncclDevKernel_AllGather", 500, 1500, 20),  # 500 beside the product, 1000 alone
        kernel("add", 2000, 500, 7),
        kernel("void barrier_kernel<2>", 2500, 100, 21),  # alone
        kernel("Memcpy PtoP (Device -> Device)", 2000, 400, 22, cat="gpu_memcpy"),  # beside the sum
        operator("aten::mm", 0, 100_000),  # what the host does does not count
    ]
    figures = analyse(events, steps=2)
    assert figures["device"] == "gpu"
    assert figures["span_ms"] == pytest.approx(2.6 / 2)
    assert figures["communication_ms"] == pytest.approx(2.0 / 2)
    assert figures["exposed_ms"] == pytest.approx(1.1 / 2)
    assert figures["exposed_pct"] == pytest.approx(55)


def test_copies_on_a_marked_stream_are_communication_and_sums_on_it_are_not():
    events = [
        operator(STREAM_MARK, 10, 5, cat="user_annotation"),
        {**operator("cudaLaunchKernel", 12, 1, cat="cuda_runtime"), "args": {"correlation": 42}},
        {**operator("cudaLaunchKernel", 13, 1, tid=2, cat="cuda_runtime"), "args": {"correlation": 43}},
        {**operator("cudaLaunchKernel", 16, 1, cat="cuda_runtime"), "args": {"correlation": 44}},
        kernel("fill", 20, 1, 30, correlation=42),
        kernel("gemm", 20, 1, 7, correlation=43),  # launched by another thread
        kernel("gemm", 21, 1, 7, correlation=44),  # launched after the mark
        kernel("Memcpy DtoD (Device -> Device)", 100, 10, 30, cat="gpu_memcpy"),
        kernel("Memcpy DtoD (Device -> Device)", 200, 10, 7, cat="gpu_memcpy"),
        kernel("add", 300, 10, 30),
    ]
    figures = analyse(events, steps=1)
    assert figures["communication_ms"] == pytest.approx(0.010)
    kinds = {(k["name"], k["kind"]) for k in figures["kernels"]}
    assert ("Memcpy DtoD (Device -> Device)", "communication") in kinds
    assert ("Memcpy DtoD (Device -> Device)", "computation") in kinds
    assert ("add", "computation") in kinds


def test_on_a_cpu_gloo_is_communication_and_the_call_of_it_is_neither():
    events = [
        operator("aten::linear", 0, 100),
        operator("aten::mm", 10, 60),
        operator("c10d::allreduce_", 100, 50),
        operator("gloo:all_reduce", 110, 200, tid=9, cat="user_annotation"),
        operator("aten::copy_", 120, 20, tid=9),
        operator("aten::add", 200, 10),
        operator("ProfilerStep#3", 0, 1000, cat="user_annotation"),
    ]
    figures = analyse(events, steps=1)
    assert figures["device"] == "cpu"
    assert figures["communication_ms"] == pytest.approx(0.200)
    assert figures["exposed_ms"] == pytest.approx(0.190)
    assert figures["exposed_pct"] == pytest.approx(95)
    times = {k["name"]: (k["ms"], k["kind"]) for k in figures["kernels"]}
    assert times["aten::linear"] == (pytest.approx(0.040), "computation")
    assert times["aten::mm"] == (pytest.approx(0.060), "computation")
    assert times["gloo:all_reduce"] == (pytest.approx(0.180), "communication")
    assert times["aten::copy_"][1] == "communication"
    assert times["c10d::allreduce_"][1] == "call"
    assert "ProfilerStep#3" not in times


def test_the_costliest_are_the_first_ten_with_their_share():
    events = [kernel(f"k{n}", 1000 * n, n + 1, 7) for n in range(20)] + [kernel("k19", 50_000, 20, 7)]
    kernels = analyse(events, steps=2)["kernels"]
    assert [k["name"] for k in kernels] == [f"k{n}" for n in range(19, 9, -1)]
    assert kernels[0] == {"name": "k19", "kind": "computation", "calls": 1.0, "ms": 0.02, "pct": 100 * 40 / 230}


def test_nothing_traced_is_no_error():
    figures = analyse([], steps=3)
    assert (figures["communication_ms"], figures["exposed_pct"], figures["kernels"]) == (0, None, [])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_own_times_sum_to_the_time_of_the_outermost(gaps):
    """Events nested like brackets: each inside the one before it."""
    start, stop, events = 0, 100, []
    for before, after in gaps:
        events.append(operator(f"op{len(events)}", start, stop - start))
        start, stop = start + before, stop - after
    assert sum(own for _, own in own_times(events)) == 100


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_a_trace_is_read_from_its_file(tmp_path, name):
    events = [kernel("gemm", 0, 1, 7), {"ph": "M", "name": "process_name"}, {"ph": "X", "name": "no duration"}]
    opened = gzip.open if name.endswith("gz") else open
    with opened(tmp_path / name, "wt") as file:
        json.dump({"traceEvents": events}, file)
    assert load_events(tmp_path / name) == events[:1]
