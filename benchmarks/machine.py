"""What the figures were made on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pycurl

PACKAGES = ("falcon", "gunicorn", "pycurl", "SQLAlchemy", "taskflow")


def describe(directory: Path) -> dict[str, object]:
    """Hardware and versions, and what ``directory``, where the databases go, is made of."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file_system": _file_system(directory),
        "fsync_ms": round(fsync_time(directory) * 1000, 3),
        "load_average": round(os.getloadavg()[0], 2),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "libcurl": pycurl.version_info()[1],
        "sqlite": sqlite3.sqlite_version,
        "executable_bits": 64 if sys.maxsize > 2**32 else 32,
        "revision": _revision(),
    }


def fsync_time(directory: Path, times: int = 50) -> float:
    """Seconds, median, that it takes to append 4 KiB to a file and have them on disk: the floor of a durable commit."""
    path = directory / "fsync-probe"
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    path.unlink()
    return statistics.median(taken)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """Its type, as the mount with the longest matching path has it."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, mounted_as, *_ = line.split()
        if directory.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, mounted_as
    return kind


def _revision() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
