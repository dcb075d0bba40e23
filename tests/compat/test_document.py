from __future__ import annotations

from tests.commands import ROOT
from zerokit.compat.deepspeed.document import render
from zerokit.compat.deepspeed.table import OPTIMIZERS, ROWS, SCHEDULERS


def test_the_document_is_that_of_the_table():
    text = (ROOT / "docs" / "deepspeed.md").read_text(encoding="utf-8")
    assert text == render(), "run: python -m zerokit.compat.deepspeed.document > docs/deepspeed.md"


def test_every_key_and_type_is_in_it():
    text = render()
    kinds = [*OPTIMIZERS.items(), *SCHEDULERS.items()]
    names = (
        [row.key for row in ROWS] + [name for name, _ in kinds] + [row.key for _, kind in kinds for row in kind.rows]
    )
    assert [name for name in names if f"`{name}`" not in text] == []
