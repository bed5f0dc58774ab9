"""Machines made of network namespaces on one bridge. Linux, as root, with `ip`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

BRIDGE, NETWORK = "gemma4gguf", "10.77.0"


@dataclass(frozen=True)
class Host:
    """A namespace. `inside`: what to put before a command so that it runs there."""

    name: str
    address: str

    @property
    def inside(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    @property
    def link(self) -> str:
        """The end of its cable on this side."""
        return f"g4-{self.address.rpartition('.')[2]}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many of them, which reach one another and this machine; gone at the end, with what runs in them."""
    made = [Host(f"{BRIDGE}-{i}", f"{NETWORK}.{i}") for i in range(1, count + 1)]
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for host in made:
            _ip("netns", "add", host.name)
            _ip("link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", host.link, "master", BRIDGE, "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", host.name, "link", "set", link, "up")
        yield made
    finally:
        for host in made:
            pids = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True).stdout.split()
            subprocess.run(["kill", "-9", *pids], capture_output=True) if pids else None
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", host.name)
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", BRIDGE)
