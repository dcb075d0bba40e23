"""The house keeps its order: imports go down only, no cycles, short files, a command line without torch."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.commands import ROOT, python

PACKAGE = ROOT / "zerokit"
COMPONENTS = {
    "optimizer",
    "scheduler",
    "precision",
    "checkpointing",
    "model",
    "adapter",
    "data",
    "tracker",
    "callbacks",
}
BASE = {"config"}
ALLOWED = {
    "config": set(),
    "comm": BASE,
    **{component: BASE for component in COMPONENTS},
    "state": BASE | {"comm"},
    "record": BASE | {"state.folder"},
    "report": BASE | {"record"},
    "zero": BASE | {"comm", "state"},
    "fault": BASE,
    "train": BASE | COMPONENTS | {"comm", "zero", "state", "record", "report", "fault"},
    "estimate": BASE | COMPONENTS | {"comm", "zero", "record", "train", "launch"},
    "doctor": BASE | {"comm", "tracker", "record"},
    "launch": BASE | {"comm", "fault", "record", "report", "state.folder", "state.lock", "state.resume"},
    "sweep": BASE | {"estimate", "launch", "record", "report", "state.folder"},
    "cli": BASE | {"doctor", "tracker", "estimate", "launch", "record", "report", "state", "sweep", "train", "compat"},
    "compat": BASE | COMPONENTS | {"comm", "zero", "state", "train"},
    "hf": BASE | {"model", "train", "zero"},
    "__main__": {"cli"},
    "__init__": BASE | {"callbacks", "cli", "train"},
}
"""What each package may import. launch starts the worker of estimate by name; state.folder, state.lock and state.resume
import no torch."""

TORCH_FREE = ("cli", "config", "record", "report")


def _modules() -> dict[str, Path]:
    names = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return names


MODULES = _modules()


def _imports(name: str) -> set[str]:
    """The modules that a module imports, anywhere."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _own(imported: str) -> str | None:
    """The module of zerokit that an import names, or None."""
    while imported.startswith("zerokit"):
        if imported in MODULES:
            return imported
        imported = imported.rpartition(".")[0]
    return None


def _layer(module: str) -> str:
    """The first part below zerokit: a folder, or a file directly in it."""
    return module.split(".")[1] if "." in module else "__init__"


def test_imports_go_down_only():
    wrong = []
    for name in MODULES:
        layer = _layer(name)
        for target in {_own(imported) for imported in _imports(name)} - {None, "zerokit", name}:
            below = _layer(target)
            if below != layer and below not in ALLOWED[layer] and target.removeprefix("zerokit.") not in ALLOWED[layer]:
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_there_are_no_cycles():
    """Those inside functions and for type checkers count as well."""
    graph = {name: {_own(i) for i in _imports(name)} - {None, "zerokit", name} for name in MODULES}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("layer", TORCH_FREE)
def test_the_way_to_a_config_error_names_no_torch(layer):
    for name in MODULES:
        if _layer(name) == layer:
            assert not {i for i in _imports(name) if i.split(".")[0] == "torch"}, name


def test_components_are_discovered_without_torch(tmp_path):
    code = (
        "import sys\n"
        "from zerokit.config import registry\n"
        "assert all(registry.names(group) for group in (*registry.GROUPS, *registry.LISTS))\n"
        "sys.exit('torch is imported' if 'torch' in sys.modules else 0)\n"
    )
    result = python("-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_private_modules_of_hydra_are_imported_in_one_file():
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]
    assert [file.name for file in files if "hydra._internal" in file.read_text()] == ["hydra_private.py"]


def test_files_are_short():
    long = {name: lines for name, file in MODULES.items() if (lines := len(file.read_text().splitlines())) > 500}
    assert long == {}


def test_collectives_are_called_in_comm_only():
    """Process groups are opened and stores made in launch; everything that moves tensors is in comm."""
    verbs = {"all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_gather_into_tensor", "barrier"}
    verbs |= {"reduce_scatter_tensor", "all_gather_object", "gather_object", "broadcast_object_list", "all_to_all"}
    wrong = []
    for name, file in MODULES.items():
        if _layer(name) == "comm":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            owner = ast.unparse(node.func.value) if _is_method_call(node) else ""
            if owner in ("dist", "torch.distributed") and node.func.attr in verbs:
                wrong.append(f"{name}:{node.lineno} {owner}.{node.func.attr}")
    assert wrong == []


def _is_method_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
