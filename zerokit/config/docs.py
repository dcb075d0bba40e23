"""The docstrings of options: the text under a field of a dataclass, read from its source."""

from __future__ import annotations

import ast
import inspect
import textwrap


def option_docs(kind: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass and its bases by field name, each on one line."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if "__dataclass_fields__" in vars(base):
            docs |= _own_docs(base)
    return docs


def _own_docs(kind: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):  # defined where there is no source, such as an interactive session
        return {}
    body = ast.parse(source).body[0].body
    docs = {}
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            docs[field.target.id] = " ".join(str(text.value.value).split())
    return docs
