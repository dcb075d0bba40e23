"""The tests' own source of data, which other tests in this process must not find registered."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from zerokit.config import registry


@pytest.fixture(autouse=True)
def rows_of_tests() -> Iterator[None]:
    """`data=rows_of_tests`, where a test's module has imported it."""
    folders = sys.modules.get("tests.huggingface.folders")
    if folders is not None:
        registry.register("data", "rows_of_tests", folders.RowOptions)(folders.build_rows)
    yield
    registry._components["data"].pop("rows_of_tests", None)
