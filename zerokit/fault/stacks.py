"""Where a rank is: the stacks of its threads, its last collective, and NCCL's own record where there is one.

[Note: stacks without the interpreter] A handler in C may meet a frame half made, of another thread or of the one that
it interrupts, and crash the process (python/cpython#116008). So a request that a healthy run may get (`STACKS`) is
answered by the monitor's thread, which holds the interpreter. Only a rank that does not answer, because its main thread
is stuck in C and holds the interpreter, is sent `STUCK`, whose handler is in C and writes that thread's stack alone.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import torch
import torch.distributed as dist

from zerokit.fault.signals import STUCK

log = logging.getLogger("zerokit")

FLIGHT_RECORDER = {"TORCH_NCCL_DUMP_ON_TIMEOUT": "1", "TORCH_FR_DUMP_TEMP_FILE": "{folder}/nccl_trace_rank_"}
"""NCCL records its last 2000 collectives by default; where its own timeout comes first, it shall write them down."""


class StackFile:
    """`logs/rankN.stacks`, to which `STUCK` adds the main thread's stack.

    See [Note: stacks without the interpreter].
    """

    def __init__(self, folder: Path, rank: int):
        self.path = folder / f"rank{rank}.stacks"
        self._trace = folder / f"rank{rank}.nccl.json"
        self._file = self.path.open("ab", buffering=0)
        faulthandler.register(STUCK, self._file, all_threads=False)
        for name, value in FLIGHT_RECORDER.items():
            os.environ.setdefault(name, value.format(folder=folder))

    def write(self, headline: str) -> None:
        """Add the stacks of all threads under a headline, and NCCL's record of collectives beside them."""
        now = datetime.now().isoformat(timespec="seconds")
        try:
            self._file.write(f"\n{now} {headline}\n".encode())
            faulthandler.dump_traceback(self._file, all_threads=True)
            trace = _nccl_trace()
            if trace:
                self._trace.write_bytes(trace)
        except (OSError, RuntimeError, ValueError) as error:
            # The disk may be why the rank stands still, and the process group may be closing.
            log.warning("%s could not be written: %s", self.path, error)

    def close(self) -> None:
        """Stop answering the signal; an empty file is removed."""
        faulthandler.unregister(STUCK)
        self._file.close()
        with suppress(OSError):  # the folder may be gone
            if self.path.stat().st_size == 0:
                self.path.unlink()


def _nccl_trace() -> bytes | None:
    dump = getattr(torch._C._distributed_c10d, "_dump_nccl_trace_json", None)  # builds with NCCL only
    if dump is None or not dist.is_initialized() or dist.get_backend() != "nccl":
        return None
    return dump(includeCollectives=True, onlyActive=False)
