"""Processors, memory, shared memory, the disk and collectives of the host."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from zerokit.config.host import cores, memory, memory_limit
from zerokit.doctor.line import Line, bad, note, ok
from zerokit.record.metrics import format_bytes

GIB = 1 << 30
WRITTEN = 256 << 20
REDUCED = 16 << 20


def host(quick: bool) -> Iterator[Line]:
    """Cores, memory, limits, and what two processes reach by gloo."""
    usable = cores()
    whole = os.cpu_count() or usable
    yield ok("CPU", f"{usable} of {whole} cores usable" if usable != whole else f"{usable} cores")
    yield _memory()
    yield from _shared_memory()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < 1024:
        yield note("open files", f"at most {files}", "ulimit -n 4096")
    if not quick:
        yield _gloo()


def _memory() -> Line:
    figures, limit = memory(), memory_limit()
    if not figures:
        return ok("memory", "unknown on this system")
    total, free = figures["MemTotal"], figures["MemAvailable"]
    text = f"{format_bytes(free)} free of {format_bytes(total)}"
    if limit is not None and limit < total:
        text += f", limited to {format_bytes(limit)} by the container"
    usable = free if limit is None else min(free, limit)
    if usable < 2 * GIB:
        return note("memory", text, "two processes of the main job need about 1 GiB: end other programs")
    return ok("memory", text)


def _shared_memory() -> Iterator[Line]:
    folder = Path("/dev/shm")
    if folder.exists():
        free = shutil.disk_usage(folder).free
        if free < GIB:
            yield note(
                "shared memory", f"{format_bytes(free)} free in /dev/shm", "NCCL needs it: docker run --shm-size=8g"
            )
        else:
            yield ok("shared memory", f"{format_bytes(free)} free in /dev/shm")


def disk(folder: Path, quick: bool) -> Iterator[Line]:
    """Whether runs can be written below `folder`, how much and how fast."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            free = shutil.disk_usage(place).free
            speed = None if quick or free < 4 * WRITTEN else _write_speed(file)
    except OSError as error:
        yield bad("disk", f"{folder}: {error.strerror or error}", "choose another folder with hydra.run.dir=DIR")
        return
    text = f"{format_bytes(free)} free for {folder}" + ("" if speed is None else f", writes {format_bytes(speed)}/s")
    if free < 5 * GIB:
        yield note("disk", text, "saved states take 12 to 16 bytes per parameter: free space, or lower state.keep")
    else:
        yield ok("disk", text)


def _write_speed(file) -> float:
    block = os.urandom(1 << 20)
    began = time.perf_counter()
    for _ in range(WRITTEN >> 20):
        file.write(block)
    file.flush()
    os.fsync(file.fileno())
    return WRITTEN / (time.perf_counter() - began)


def _gloo() -> Line:
    """Two processes of this host sum 16 MiB."""
    from zerokit.comm.probe import all_reduce_seconds

    try:
        seconds = all_reduce_seconds("gloo", 2, REDUCED)
    except RuntimeError as error:
        line = (str(error).strip().splitlines() or ["no answer"])[-1]
        return bad("gloo", f"two processes cannot reach each other: {line[:120]}", "set GLOO_SOCKET_IFNAME=lo")
    return ok("gloo", f"2 processes sum 16 MiB in {1000 * seconds:.1f} ms, {format_bytes(REDUCED / seconds)}/s")
