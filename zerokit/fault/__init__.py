"""When something goes wrong on one rank: all ranks learn of it, agree on what to do, and say what it was."""

from zerokit.fault.folder import FolderWatch
from zerokit.fault.monitor import END, Ended, Limits, Monitor, is_consequence

__all__ = ["END", "Ended", "FolderWatch", "Limits", "Monitor", "is_consequence"]
