"""`zerokit report FOLDER [baseline=CELL]`: write the report of a run or a sweep from what it left.

FOLDER is the output folder of a run, or one with such folders at any depth, as of a sweep. CELL is the number, label or
folder of the cell that the others are compared with, by default the first that finished.
"""

from __future__ import annotations

from pathlib import Path

from zerokit.cli.page import usage
from zerokit.config.errors import ConfigError, writing

USAGE = usage(__doc__)


def main(words: list[str]) -> int:
    """Write the report of the folder that `words` name and print its path; for a sweep also that of report.md.

    Raises:
        ConfigError: if the folder is none of a run or a sweep, there is no such cell, or it cannot be written.
    """
    options = [word for word in words if word.startswith("baseline=")]
    folders = [word for word in words if word not in options]
    if len(folders) != 1 or len(options) > 1 or folders[0].startswith("-"):
        raise ConfigError(f"Give one folder: {USAGE}.")
    folder = Path(folders[0])
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}: give the output folder of a run or a sweep.")
    from zerokit.report import write_report
    from zerokit.report.cells import is_sweep

    if options and not is_sweep(folder):
        raise ConfigError(f"baseline= compares the cells of a sweep, and {folder} holds none.")
    with writing(f"Cannot write the report into {folder}"):
        page = write_report(folder, options[0].partition("=")[2] if options else None)
    print(page)
    if is_sweep(folder):
        print(page.with_suffix(".md"))
    return 0
