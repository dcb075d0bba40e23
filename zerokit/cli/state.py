"""`zerokit state PATH [--verify]`: list the saved states of a run, and whether they are sound.

PATH is the output folder of a run or one of its states. --verify reads every byte; without it lengths of files and the
digests of the manifests are checked. The exit status is 1 if a state is damaged.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from zerokit.config.errors import ConfigError
from zerokit.config.terminal import printable, say
from zerokit.state.errors import StateError
from zerokit.state.folder import given_states
from zerokit.state.manifest import Manifest, read_manifest

ROW = "{:<19} {:<17} {:>10} {:>5} {:>5}  {:<9} {}"


def main(words: list[str]) -> int:
    """List the states that `words` name; exit status 1 if one is damaged.

    `--verify` reads every byte; without it lengths of files and the manifests' own digests are checked.

    Raises:
        ConfigError: there is no state.
    """
    paths = [word for word in words if word != "--verify"]
    unknown = [word for word in paths if word.startswith("-")]
    if unknown:
        raise ConfigError(f"Cannot read '{unknown[0]}'. Usage: zerokit state PATH [--verify].")
    if len(paths) != 1:
        raise ConfigError("Give one folder: zerokit state PATH [--verify], where PATH is a run's folder or a state.")
    thorough = "--verify" in words
    states = given_states(paths[0])
    print(states[0].parent)
    print(ROW.format("state", "saved (UTC)", "size", "ranks", "stage", "format", "verified" if thorough else "checked"))
    problems = [problem for state in states if (problem := _show(state, thorough))]
    for problem in problems:
        say(problem)
    return 1 if problems else 0


def _show(state: Path, thorough: bool) -> str | None:
    """Print the line of a state; return what is wrong with it."""
    try:
        manifest = _verified(state) if thorough else read_manifest(state)
    except StateError as error:
        print(ROW.format(state.name, *["?"] * 5, "DAMAGED"))
        return str(error)
    facts = manifest.facts
    saved = str(facts.get("saved", "?"))[:16].replace("T", " ")
    numbers = (facts.get("world", "?"), facts.get("stage", "?"), facts.get("precision") or facts.get("compute", "?"))
    row = ROW.format(state.name, saved, _size(manifest.bytes), *map(str, numbers), "yes" if thorough else "lengths")
    print(printable(row).replace("\n", " "))
    return None


def _verified(state: Path) -> Manifest:
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # torch says so; nothing here needs it
    from zerokit.state.read import StateReader, verify

    manifest = verify(state)
    with StateReader(state, manifest) as reader:
        reader.check_headers()
    return manifest


def _size(count: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
