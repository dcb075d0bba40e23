"""What this machine has and what would go wrong on it, line by line, each with its remedy."""

from zerokit.doctor.line import Line
from zerokit.doctor.sections import SECTIONS, examine

__all__ = ["SECTIONS", "Line", "examine"]
