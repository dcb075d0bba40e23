"""When something goes wrong on one rank: all ranks learn of it, agree on what to do, and say what it was."""

from zerokit.fault.monitor import Ended, Limits, Monitor, is_consequence

__all__ = ["Ended", "Limits", "Monitor", "is_consequence"]
