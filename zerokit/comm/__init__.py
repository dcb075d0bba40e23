"""Collectives, streams and events: the only code that talks to `torch.distributed` and to CUDA streams."""

from zerokit.comm.communicator import Communicator
from zerokit.comm.stream import Stream

__all__ = ["Communicator", "Stream"]
