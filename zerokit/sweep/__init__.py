"""Sweeps: every cell in a process of its own, a table of all of them, and the same command again goes on.

Importing this package does not import torch; running cells does.
"""
