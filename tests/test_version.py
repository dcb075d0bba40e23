"""The version is said once to packagers and once to programs."""

import tomllib
from pathlib import Path

import zerokit


def test_the_versions_agree():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == zerokit.__version__
