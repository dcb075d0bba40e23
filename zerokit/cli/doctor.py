"""`zerokit doctor [--quick] [FOLDER]`: what this machine has and what would go wrong, each line with the remedy.

Runs would be written to FOLDER, by default outputs. --quick measures nothing. The exit status is 1 if something would
fail.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from zerokit.cli.page import usage
from zerokit.config.errors import ConfigError

USAGE = usage(__doc__)
MARKS = {"ok": "+", "note": "!", "bad": "x"}
WIDTH = 79
INDENT = 20


def main(words: list[str]) -> int:
    """Print the findings.

    Returns:
        0, or 1 if something would fail.

    Raises:
        ConfigError: if the words cannot be read.
    """
    quick = "--quick" in words
    rest = [word for word in words if word != "--quick"]
    if len(rest) > 1 or any(word.startswith("-") for word in rest):
        raise ConfigError(f"Cannot read '{' '.join(words)}'. Usage: {USAGE}.")
    from zerokit.doctor import examine

    counts, before = dict.fromkeys(MARKS, 0), ""
    for section, line in examine(Path(rest[0] if rest else "outputs").absolute(), quick):
        if section != before:
            print(f"{'' if not before else chr(10)}{section}")
            before = section
        counts[line.state] += 1
        head = f"  {MARKS[line.state]} {line.what:<{INDENT - 5}} "
        print(textwrap.fill(line.finding, WIDTH, initial_indent=head, subsequent_indent=" " * INDENT), flush=True)
        if line.remedy:
            print(
                textwrap.fill(
                    f"-> {line.remedy}", WIDTH, initial_indent=" " * INDENT, subsequent_indent=" " * (INDENT + 3)
                )
            )
    print(f"\n{counts['ok']} fine (+), {counts['note']} could be better (!), {counts['bad']} would fail (x)")
    return 1 if counts["bad"] else 0
