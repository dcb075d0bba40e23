from __future__ import annotations

import json

import pytest

from zerokit.report.profile import profile
from zerokit.report.run import Run


@pytest.fixture
def write(tmp_path):
    (tmp_path / "profile").mkdir()

    def write(rank, **figures):
        row = {"rank": rank, "device": "gpu", "steps": 3, "span_ms": 10.0, "communication_ms": 4.0,
               "exposed_ms": 1.0, "exposed_pct": 25.0, "kernels": [], **figures}  # fmt: skip
        (tmp_path / "profile" / f"rank{rank}.figures.json").write_text(json.dumps(row))
        return Run(tmp_path, {}, {}, [])

    return write


def test_a_run_without_a_trace_has_no_section(tmp_path):
    assert profile(Run(tmp_path, {}, {}, [])) == ""


def test_ranks_come_in_order_and_the_share_is_defined(write):
    write(10)
    write(2, exposed_pct=None)
    page = profile(write(0))
    assert page.index("row'>0<") < page.index("row'>2<") < page.index("row'>10<")
    assert "25 %" in page and "none" in page
    assert "not hidden is the part of it in which no other kernel ran" in page


def test_kernels_are_escaped_and_cut(write, tmp_path):
    kernel = {"name": "void gemm<float>" + "x" * 500, "kind": "computation", "calls": 2.0, "ms": 1.5, "pct": 60.0}
    (tmp_path / "profile" / "rank0.memory.pickle").write_bytes(b"")
    page = profile(write(0, kernels=[kernel]))
    assert "void gemm&lt;float&gt;" in page and "x" * 200 not in page
    assert "<td>1.500</td><td>60.0</td>" in page
    assert "memory_viz" in page


@pytest.mark.parametrize("content", ["", "[]", '{"rank": "0"}', '{"rank": 1}'])
def test_half_written_figures_do_no_harm(write, tmp_path, content):
    write(0)
    (tmp_path / "profile" / "rank1.figures.json").write_text(content)
    assert "Profile" in profile(Run(tmp_path, {}, {}, []))
