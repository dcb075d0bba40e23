"""`make dist`: the packages build, say what the index of packages wants, and hold what a program needs."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile

from tests.commands import ROOT
from zerokit import __version__


def test_the_packages_build_and_hold_what_is_needed(tmp_path):
    def run(*words: str) -> None:
        result = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr

    run("build", "--no-isolation", "--outdir", str(tmp_path))
    wheel, source = tmp_path / f"zerokit-{__version__}-py3-none-any.whl", tmp_path / f"zerokit-{__version__}.tar.gz"
    run("twine", "check", "--strict", str(wheel), str(source))
    inside = set(zipfile.ZipFile(wheel).namelist())
    needed = ("zerokit/__main__.py", "zerokit/conf/config.yaml", "zerokit/report/page.js", "zerokit/report/page.css")
    assert set(needed) <= inside
    assert not any(name.startswith(("tests/", "docs/", "bench/")) for name in inside)
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "Makefile", "mkdocs.yml", "docs/start.md", "tests/docs/pages.py", "conf/config.yaml"} <= names
