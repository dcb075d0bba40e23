"""Small faults that could have been made in a file, one at a time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARISONS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
ARITHMETIC = {ast.Add: "-", ast.Sub: "+", ast.Mult: "//", ast.FloorDiv: "*", ast.Div: "*", ast.Mod: "+", ast.Pow: "*"}
LOGIC = {ast.And: "or", ast.Or: "and"}
SKIPPED = (ast.Assert, ast.Raise, ast.Import, ast.ImportFrom, ast.AnnAssign, ast.JoinedStr)
"""What has no behaviour of its own, or says something to people."""


@dataclass(frozen=True)
class Mutant:
    """Bytes `[start, stop)` of a file replaced by `new`."""

    file: str
    line: int
    start: int
    stop: int
    old: str
    new: str

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.file}:{self.line}: `{old[:70]}` → `{new[:70]}`"

    def apply(self, root: Path) -> None:
        """Put the fault into the file below `root`."""
        path = root / self.file
        source = path.read_bytes()
        path.write_bytes(source[: self.start] + self.new.encode() + source[self.stop :])


def mutants(root: Path, file: str) -> Iterator[Mutant]:
    """Every mutant of a file below `root`."""
    source = (root / file).read_text(encoding="utf-8")
    lines = [0]
    for line in source.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    for node, new in _changes(ast.parse(source)):
        start, stop = lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset
        old = source.encode()[start:stop].decode()
        if old != new:
            yield Mutant(file, node.lineno, start, stop, old, new)


def _changes(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Nodes below `node` and what could stand in their place."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, SKIPPED) or _is_text(child) or _is_annotation(node, child):
            continue
        yield from ((child, new) for new in _instead(child))
        yield from _changes(child)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_annotation(parent: ast.AST, child: ast.AST) -> bool:
    return child in (getattr(parent, "annotation", None), getattr(parent, "returns", None)) or (
        child in getattr(parent, "decorator_list", ())
    )


def _instead(node: ast.AST) -> Iterator[str]:
    text = ast.unparse
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            yield f"({text(left)} {COMPARISONS[type(op)]} {text(right)})"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            yield f"(({text(left)}) {ARITHMETIC[type(op)]} ({text(right)}))"
        case ast.BoolOp(op=op, values=values):
            yield "(" + f" {LOGIC[type(op)]} ".join(f"({text(value)})" for value in values) + ")"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield f"bool({text(operand)})"
        case ast.Constant(value=bool() as value):
            yield str(not value)
        case ast.Constant(value=int() | float() as value):
            yield str(value + 1)
        case ast.IfExp(test=test, body=body, orelse=other):
            yield f"(({text(other)}) if ({text(test)}) else ({text(body)}))"
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield "return None"
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield "pass"
        case ast.Continue():
            yield "break"
        case ast.Break():
            yield "pass"


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
