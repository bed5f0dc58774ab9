"""Memory and processors that this process may use, read from system files of every layout that Linux has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from gemma4gguf.machine import cpu_quota, data_limit, memory_free, memory_limit, physical_cores

GB = 10**9
MEMORY = {"proc/meminfo": "MemTotal:       16000000 kB\nMemFree:  1 kB\n"}
TWO = {  # version 2: a service in a slice that is limited too
    "proc/self/cgroup": "0::/slice/service\n",
    "sys/fs/cgroup/slice/memory.max": "6000000000\n",
    "sys/fs/cgroup/slice/service/memory.max": "max\n",
    "sys/fs/cgroup/slice/cpu.max": "max 100000\n",
    "sys/fs/cgroup/slice/service/cpu.max": "150000 100000\n",
}
CONTAINER = {  # version 2, seen from inside: the group is the top
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.max": "4000000000\n",
    "sys/fs/cgroup/cpu.max": "400000 100000\n",
}
ONE = {  # version 1: a path of its own for every controller, and one that is not there inside the container
    "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/docker/abc\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000000\n",
    "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}
FREE = {  # version 1 writes its largest number where there is no limit
    "proc/self/cgroup": "4:memory:/\n3:cpu:/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
}


def laid_out(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "memory", "quota"),
    [
        (MEMORY, 16_384_000_000, None),
        (MEMORY | TWO, 6 * GB, 1.5),
        (MEMORY | CONTAINER, 4 * GB, 4.0),
        (MEMORY | ONE, 3 * GB, 0.5),
        (MEMORY | FREE, 16_384_000_000, None),
    ],
)
def test_limits(tmp_path: Path, files: Mapping[str, str], memory: int, quota: float | None) -> None:
    root = laid_out(tmp_path, files)
    assert memory_limit(root) == memory
    assert cpu_quota(root) == quota


AVAILABLE = {"proc/meminfo": "MemTotal:       16000000 kB\nMemAvailable:    7000000 kB\n"}
USED = {
    "sys/fs/cgroup/slice/memory.current": "5000000000\n",
    "sys/fs/cgroup/slice/memory.stat": "anon 3000000000\nactive_file 400000000\ninactive_file 600000000\n",
}
USED_ONE = {
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "2900000000\n",
    "sys/fs/cgroup/memory/memory.stat": "active_file 1\ntotal_active_file 0\ntotal_inactive_file 500000000\n",
}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (AVAILABLE, 7_168_000_000),
        (AVAILABLE | TWO, 7_168_000_000),  # a group that does not tell what it uses
        (AVAILABLE | TWO | USED, 2 * GB),  # pages of files are given back
        (AVAILABLE | ONE | USED_ONE, 600_000_000),
        (AVAILABLE | FREE, 7_168_000_000),
        ({}, None),
    ],
)
def test_what_is_free_now(tmp_path: Path, files: Mapping[str, str], free: int | None) -> None:
    assert memory_free(laid_out(tmp_path, files)) == free


def test_this_machine_has_something_free() -> None:
    free, limit = memory_free(), memory_limit()
    assert free is not None
    assert limit is not None
    assert 10**8 < free <= limit


def test_a_limit_on_private_memory() -> None:
    assert data_limit() is None
    code = "import mmap; from gemma4gguf.machine import data_limit; print(data_limit()); "
    code += "held = mmap.mmap(-1, 10**8, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); print(data_limit())"
    shell = f"ulimit -d 1000000; exec {sys.executable} -c '{code}'"
    before, after = map(int, subprocess.check_output(["sh", "-c", shell], text=True).split())
    assert 0 < 1000000 * 1024 - before < 10**8
    assert before - after == pytest.approx(10**8, rel=0.01)  # reserved, and never used


def test_this_machine() -> None:
    limit = memory_limit()
    assert limit is not None
    assert limit > 10**8
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


def test_threads_follow_cores_affinity_and_quota(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    cores = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    alone = laid_out(tmp_path / "alone", {cores.format(n): f"{n}\n" for n in allowed})
    assert physical_cores(alone) == len(allowed)
    shared = laid_out(tmp_path / "shared", {cores.format(n): "0-99\n" for n in allowed})  # all of them on one core
    assert physical_cores(shared) == 1
    for quota, threads in ((50_000, 1), (100_000, 1), (190_000, 1), (100_000 * len(allowed), len(allowed))):
        group = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{quota} 100000\n"}
        root = laid_out(tmp_path / str(quota), group | {cores.format(n): f"{n}\n" for n in allowed})
        assert physical_cores(root) == min(threads, len(allowed))
