"""`import deepspeed` means zerokit: `python -m zerokit.compat.deepspeed.install`, and `--undo` for the reverse.

It writes two entries into this environment's site-packages, a package `deepspeed` of one file and its metadata, which
accelerate, transformers and pip see. Where DeepSpeed itself is installed nothing is changed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from zerokit.compat.deepspeed import __version__

MARK = "zerokit.compat.deepspeed"
PACKAGE = f'''"""DeepSpeed's interface on zerokit's engine, by `python -m {MARK}.install`."""

import importlib
import importlib.abc
import importlib.util
import sys

_HERE, _THERE = "deepspeed", "{MARK}"


class _Same(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """`deepspeed.X` is the module `{MARK}.X`."""

    def find_spec(self, name, path=None, target=None):
        if not name.startswith(_HERE + "."):
            return None
        there = _THERE + name[len(_HERE):]
        try:
            found = importlib.util.find_spec(there)
        except ModuleNotFoundError:
            return None
        package = found is not None and found.submodule_search_locations is not None
        return found and importlib.util.spec_from_loader(name, self, is_package=package)

    def create_module(self, spec):
        module = importlib.import_module(_THERE + spec.name[len(_HERE):])
        self.kept = getattr(self, "kept", {{}})
        self.kept[spec.name] = (module.__spec__, module.__loader__)
        return module

    def exec_module(self, module):
        name = _HERE + module.__name__[len(_THERE):]
        module.__spec__, module.__loader__ = self.kept[name]


sys.meta_path.insert(0, _Same())
print("deepspeed is zerokit's here ({MARK})", file=sys.stderr)
sys.modules[__name__] = importlib.import_module(_THERE)
'''


def site() -> Path:
    """Where this environment's packages lie."""
    return Path(sysconfig.get_paths()["purelib"])


def main(words: list[str] | None = None) -> None:
    """Install, or undo it; exits with 2 where that cannot be done."""
    parser = argparse.ArgumentParser(prog=f"{MARK}.install", description="make `import deepspeed` mean zerokit")
    parser.add_argument("--undo", action="store_true", help="take it away again")
    given = parser.parse_args(words)
    folder = site()
    package, facts = folder / "deepspeed", folder / f"deepspeed-{__version__}.dist-info"
    ours = (package / "__init__.py").is_file() and MARK in (package / "__init__.py").read_text(encoding="utf-8")
    if not ours and (package.exists() or _installed()):
        parser.error("DeepSpeed itself is installed here, and nothing was changed: pip uninstall deepspeed first.")
    try:
        for old in (package, facts):
            shutil.rmtree(old, ignore_errors=not old.exists())
        if not given.undo:
            _write(package, facts)
    except OSError as error:
        parser.error(f"{folder}: {error.strerror}.")
    print("import deepspeed is zerokit's" if not given.undo else "import deepspeed is free again" if ours else
          "there was nothing to undo")  # fmt: skip


def _installed() -> bool:
    try:
        distribution("deepspeed")
    except PackageNotFoundError:
        return False
    return True


def _write(package: Path, facts: Path) -> None:
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE, encoding="utf-8")
    facts.mkdir()
    text = f"Metadata-Version: 2.1\nName: deepspeed\nVersion: {__version__}\nSummary: zerokit under DeepSpeed's name\n"
    (facts / "METADATA").write_text(text)
    (facts / "INSTALLER").write_text("zerokit\n")
    names = [package / "__init__.py", facts / "METADATA", facts / "INSTALLER", facts / "RECORD"]
    (facts / "RECORD").write_text("".join(f"{name.relative_to(package.parent).as_posix()},,\n" for name in names))


if __name__ == "__main__":
    main(sys.argv[1:])
