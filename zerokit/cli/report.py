"""`zerokit report RUN_FOLDER`: write report.html again from what the run left."""

from __future__ import annotations

from pathlib import Path

from zerokit.config.errors import ConfigError


def main(words: list[str]) -> int:
    """Write the report of the run folder that `words` name and print its path.

    Raises:
        ConfigError: if there is no such folder.
    """
    if len(words) != 1:
        raise ConfigError("Give one folder: zerokit report RUN_FOLDER.")
    folder = Path(words[0])
    if not (folder / "metrics.jsonl").exists():
        raise ConfigError(f"{folder} holds no metrics.jsonl: give the output folder of a run.")
    from zerokit.report import write_report

    print(write_report(folder))
    return 0
