"""Files of a run that cannot be read are named once, whoever reads them."""

from __future__ import annotations

import pytest

from zerokit.config.files import read_mapping
from zerokit.config.suspect import parse_yaml
from zerokit.record.summary import read_summary
from zerokit.report.run import load_run


@pytest.mark.parametrize("content", [b'{"status": "fini', b"", b"[1]", b"\xff", b"[" * 100_000])
def test_a_half_written_summary_is_told_once_whoever_reads_it(tmp_path, caplog, content):
    (tmp_path / "summary.json").write_bytes(content)
    assert read_summary(tmp_path) == {} and load_run(tmp_path).summary == {}
    (told,) = caplog.messages
    assert told.startswith(f"{tmp_path}/summary.json was left out: ") and "\n" not in told


def test_a_file_that_is_not_there_is_no_problem(tmp_path, caplog):
    assert read_mapping(tmp_path / "a") == {} and not caplog.messages
    (tmp_path / "a").write_text("b: [1, 2]")
    assert read_mapping(tmp_path / "a", parse_yaml) == {"b": [1, 2]} and not caplog.messages
    (tmp_path / "a").write_text("b: [1, 2")
    assert read_mapping(tmp_path / "a", parse_yaml) == {} and len(caplog.messages) == 1
