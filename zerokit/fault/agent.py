"""torchrun's agent on this host, which waits without a limit for a store that it cannot reach."""

from __future__ import annotations

import os
import subprocess

from zerokit.fault.board import process_state

PATIENCE_S = 10
"""Seconds that an agent has to end by itself after its worker."""
WATCH = "for _ in $(seq {seconds}); do sleep 1; kill -0 {pid} || exit; done; kill -KILL {pid}"


def end_agent_that_hangs() -> None:
    """Let torchrun's agent, the parent of this process, be killed if it is still there `PATIENCE_S` seconds from now.

    It asks the store ten times a second, and no other signal ends a call that the network never answers. An agent that
    somebody has stopped is left alone.
    """
    pid = os.getppid()
    if "TORCHELASTIC_RUN_ID" not in os.environ or process_state(pid) in ("T", "gone"):
        return
    words = ["sh", "-c", WATCH.format(seconds=PATIENCE_S, pid=pid)]
    subprocess.Popen(words, start_new_session=True, **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL))
