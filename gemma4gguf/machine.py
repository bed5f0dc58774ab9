"""What this machine lets this process use: memory and processor cores, control groups included.

In: nothing but the system's own files. Out: bytes and counts. Knows nothing of models.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MEMINFO = "proc/meminfo"
# Of a control group, version 2 and version 1: (controller, file of version 2, files of version 1).
_MEMORY = ("memory", ("memory.max",), ("memory.limit_in_bytes",))
_USED = (
    "memory",
    ("memory.max", "memory.current", "memory.stat"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
)
_CPU = ("cpu", ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
# Pages of files, which the system takes back when memory is needed.
_CACHED = {"active_file", "inactive_file"}, {"total_active_file", "total_inactive_file"}


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process may use at most: the machine's, or its control group's where that is less.

    None where the system does not tell.
    """
    known = [value for value in (_physical(root), *_limits(root)) if value is not None]
    return min(known, default=None)


def memory_free(root: Path = Path("/")) -> int | None:
    """Bytes of that memory that nobody uses now, pages of files not counted: the system takes those back.

    None where the system does not tell.
    """
    known = [value for value in (_told(root / MEMINFO, "MemAvailable"), *_left(root)) if value is not None]
    return min(known, default=None)


def data_limit(root: Path = Path("/")) -> int | None:
    """Bytes of private memory that this process may use (`ulimit -d`); None without a limit.

    The limit counts what is reserved, used or not. What this process has reserved and does not use is taken off.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY:
        return None
    reserved, used = (_told(root / "proc/self/status", name) or 0 for name in ("VmData", "RssAnon"))
    return int(max(0, soft - max(0, reserved - used)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that the control group may use; None without a quota."""
    return min((quota for quota in map(_quota, _values(root, _CPU)) if quota is not None), default=None)


def physical_cores(root: Path = Path("/")) -> int:
    """Threads that pay: physical cores that this process may run on, and no more than its quota keeps busy.

    A second thread on a core slows decoding down, and so does a thread that is stopped while the others wait for it.
    """
    cores, quota = _cores(root), cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))


def processors() -> int:
    """Logical processors that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return max(1, os.cpu_count() or 1)


def _cores(root: Path) -> int:
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:
        return processors()
    try:
        topology = root / "sys/devices/system/cpu"
        return len({(topology / f"cpu{n}/topology/thread_siblings_list").read_text() for n in allowed}) or 1
    except OSError:
        return len(allowed)


def _physical(root: Path) -> int | None:
    """The machine's memory. Linux's own figure leaves out what the kernel has reserved."""
    if (told := _told(root / MEMINFO, "MemTotal")) is not None:
        return told
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _told(file: Path, name: str) -> int | None:
    """Bytes that one of the kernel's lists gives."""
    with suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _left(root: Path) -> Iterator[int | None]:
    """What every group leaves of its limit."""
    for limit, used, stat in _values(root, _USED):
        counts = dict(line.split() for line in stat.splitlines())
        cached = max(sum(int(counts.get(name, 0)) for name in names) for names in _CACHED)
        yield max(0, int(limit) - int(used) + cached) if limit.isdecimal() else None


def _limits(root: Path) -> Iterator[int | None]:
    for (text,) in _values(root, _MEMORY):
        yield int(text) if text.isdecimal() else None  # "max": no limit


def _quota(texts: tuple[str, ...]) -> float | None:
    quota, period = " ".join(texts).split()  # version 2 has both in one file
    return int(quota) / int(period) if quota.isdecimal() else None  # "max" and -1: no quota


def _values(root: Path, what: tuple[str, tuple[str, ...], tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The texts of a group's files, of the group that this process is in and of every group around it."""
    controller, current, former = what
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controllers
        names = former if controllers else current
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError):  # inside a container the path may be the host's, and the group is the top
                yield tuple((folder / name).read_text().strip() for name in names)
            if folder == top:
                break
