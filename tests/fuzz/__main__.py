"""`python -m tests.fuzz`: run random programs, shrink those that fail, write what came out."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz import campaign


def main() -> int:
    """Run what the command line asks for; 1 if a program failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--programs", type=int, default=None, help="number of programs; without it, until the time is over"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first program; the others follow")
    parser.add_argument("--budget", type=float, default=None, help="seconds after which no program is begun")
    parser.add_argument("--jobs", type=int, default=1, help="programs side by side")
    parser.add_argument("--only", default="", help="only programs that have this feature, such as use:probe")
    parser.add_argument("--singles", action="store_true", help="programs with one feature each, at stages 0 and 3")
    parser.add_argument("--shrink", type=int, default=10, help="how many failing programs are made smaller; 0: none")
    parser.add_argument("--record", action="store_true", help="write RESULTS.md")
    options = parser.parse_args()
    if options.programs is None and options.budget is None and not options.singles:
        options.programs = 100
    return campaign.run(options)


if __name__ == "__main__":
    sys.exit(main())
