"""`python -m zerokit` is the same command as `zerokit`."""

from zerokit.cli import main

main()
