"""The result file of one case, written again after every run, so that a killed comparison loses nothing."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from bench import table


def write(path: Path, text: str) -> None:
    """Replace a file in one move; its folder is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


class Result:
    """Runs of one case and what follows from them, in `NAME.json` and `NAME.md`."""

    def __init__(self, folder: Path, case: dict[str, Any], facts: dict[str, Any], header: dict[str, Any]) -> None:
        gpu = re.sub(r"[^\w.-]+", "-", facts["gpu"].removeprefix("NVIDIA ")).strip("-")
        stamp = re.sub(r"[^\dT]", "-", facts["date"][:19])
        self.path = folder / f"{stamp}_{header['nproc']}x{gpu}_{case['name']}.json"
        self.wanted = header.pop("wanted_baseline")
        self.values: dict[str, Any] = {"case": case, "facts": facts, **header, "runs": []}

    def add(self, run: dict[str, Any]) -> None:
        """Take a run, finished, failed or skipped, and write the files."""
        self.values["runs"].append(run)
        self._summarise()
        write(self.path, json.dumps(self.values, indent=1, ensure_ascii=False) + "\n")
        write(self.path.with_suffix(".md"), self.table())

    def table(self) -> str:
        """The Markdown table."""
        return table.render(self.values)

    def _summarise(self) -> None:
        groups: dict[str, list] = {}
        for run in self.values["runs"]:
            groups.setdefault(run["system"], []).append(run)
        systems = {name: table.summarise(runs) for name, runs in groups.items()}
        base = table.pick_baseline(systems, self.wanted)
        if self.values["curve"] and base is not None:
            for name, row in systems.items():
                row["loss_distance"] = table.loss_distance(groups[name], groups[base])
        self.values["systems"], self.values["baseline"] = systems, base
        if "against" in self.values:
            self.values["ratios"] = table.ratios(systems, self.values["against"]["prefix"])
