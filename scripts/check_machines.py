#!/usr/bin/env python3
"""Long checks of several machines, made on this one: each prints what it found, and fails where that is bad.

servers  mixed lines for three servers in network namespaces; one is killed, one is stopped nine tenths of the time
         (Linux, root).
ray      lines with pictures for a Ray cluster of two nodes: an actor is killed, then a node, then an actor hangs; none
         is lost, none is there twice, and the pictures are not in the object store.
rpc      llama-server on an exported bundle, here and by two workers of ggml's RPC in network namespaces, half the
         layers each: the same answers, and what a token costs (Linux, root).
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from converters import convert  # noqa: E402
from gemma4gguf.batch.lines import CHAT  # noqa: E402
from gemma4gguf.bundle.reading import Bundle  # noqa: E402
from tests.support import many  # noqa: E402
from tests.support.batches import answers, written  # noqa: E402
from tests.support.namespaces import hosts  # noqa: E402
from tests.support.runtimes import ask, serve  # noqa: E402
from tests.support.serving import encoded  # noqa: E402

PICTURES, MOST_STORED, KNOWN = 16, 50e6, 10_000_000  # files; bytes
RPC_PORT, LONGEST = 50052, 32  # tokens of an answer


def servers(bundle: Path, work: Path, args: argparse.Namespace) -> bool:
    with many.opened(bundle) as model:
        lines = many.mixed(args.lines, work, many.letter_of(model))
        expected = {one["custom_id"]: many.alone(model, one, work).text for one in lines}
    source, out = written(work / "in.jsonl", lines), work / "out.jsonl"
    with hosts(3) as machines:
        serve = many.program("serve", bundle, "--parallel", 2, "--api-key", "secret")
        quiet: dict[str, Any] = {"stderr": subprocess.DEVNULL, "start_new_session": True}
        running = [subprocess.Popen([*host.inside, *serve, "--host", host.address], **quiet) for host in machines]
        addresses = [f"http://{host.address}:8080" for host in machines]
        for address in addresses:
            many.until(lambda url=f"{address}/health": httpx.get(url, timeout=1).is_success)  # type: ignore[misc]
        asking = ("--servers", ",".join(addresses), "--files-from", work, "--parallel", 2, "--api-key", "secret")
        with _slow(running[2].pid), subprocess.Popen(many.command("tiny", source, out, *asking)) as process:
            many.until(lambda: many.count(out) > args.lines // 4)
            os.killpg(running[0].pid, signal.SIGKILL)
            print(f"a server of three is killed after {many.count(out)} answers", flush=True)
        return process.returncode == 0 and many.same(bundle, work, lines, expected, answers(out))


@contextmanager
def _slow(group: int) -> Iterator[None]:
    """A group of processes runs a tenth of the time."""
    end = threading.Event()

    def work() -> None:
        while not end.wait(0.1):
            os.killpg(group, signal.SIGSTOP)
            end.wait(0.9)
            os.killpg(group, signal.SIGCONT)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def ray(bundle: Path, work: Path, args: argparse.Namespace) -> bool:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    lines, size = noisy(args.lines, work)
    with many.opened(bundle) as model:
        expected = {one["custom_id"]: many.alone(model, one, work).text for one in lines[:20:2]}
    source, out = written(work / "in.jsonl", lines), work / "out.jsonl"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    other = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    stored: list[float] = []

    def stored_now() -> float:
        name = "object_store_memory"
        stored.append(ray.cluster_resources().get(name, 0) - ray.available_resources().get(name, 0))
        return stored[-1]

    def come_to(share: float) -> None:
        many.until(lambda: stored_now() >= 0 and many.count(out) >= args.lines * share, 3600)

    try:
        seen = ray.put(np.zeros(KNOWN, np.uint8))
        many.until(lambda: stored_now() >= KNOWN)  # so it would be seen
        del seen
        many.until(lambda: stored_now() < KNOWN)
        stored.clear()
        asking = ("--ray", cluster.address, "--files-from", work, "--parallel", 2, "--timeout", args.timeout)
        with subprocess.Popen(many.command(bundle, source, out, *asking)) as process:
            come_to(0.1)
            actors = _actors()
            os.kill(actors[0], signal.SIGKILL)
            print(f"an actor of {len(actors)} is killed after {many.count(out)} answers", flush=True)
            come_to(0.4)
            cluster.remove_node(other, allow_graceful=False)
            print(f"a node of 2 is lost after {many.count(out)} answers", flush=True)
            come_to(0.7)
            actors = _actors()
            os.kill(actors[0], signal.SIGSTOP)
            print(f"an actor of {len(actors)} hangs after {many.count(out)} answers", flush=True)
            come_to(1)
    finally:
        ray.shutdown()
        cluster.shutdown()
    found = answers(out)
    print(f"{len(found)} answers to {args.lines} lines; {size / 1e6:.0f} MB of lines and pictures were read")
    print(f"in the object store at most {max(stored):,.0f} bytes, of {len(stored)} looks")
    complete = process.returncode == 0 and len(found) == args.lines
    return complete and max(stored) < MOST_STORED and expected.items() <= found.items()


def _actors() -> list[int]:
    """The processes of this machine that Ray has made for models."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
    return [int(row.split()[0]) for row in listed if "ray::Remote" in row]


def noisy(lines: int, folder: Path) -> tuple[list[many.Json], int]:
    """Lines with pictures that do not shrink, half of them in the line; and how many bytes all of that is."""
    chance = np.random.default_rng(20)
    paths = [folder / f"{i}.png" for i in range(PICTURES)]
    for path in paths:
        Image.fromarray(chance.integers(0, 256, (192, 256, 3), np.uint8)).save(path)
    asked = []
    for i in range(lines):
        path = paths[i % PICTURES]
        shown = many.picture(f"data:image/png;base64,{encoded(path)}" if i % 2 else f"file:{path.name}")
        asked.append(many.line(f"q{i}", [shown, {"type": "text", "text": f"{i}: what is it?"}]))
    return asked, lines * paths[0].stat().st_size


def rpc(bundle: Path, work: Path, args: argparse.Namespace) -> bool:
    built = subprocess.run([ROOT / "scripts" / "peers", "--rpc"], stdout=subprocess.PIPE, text=True, check=True)
    programs = Path(built.stdout.strip(), "rpc")
    export = ["export", str(bundle), str(work / "parts"), "--for", "llama.cpp"]
    subprocess.run([sys.executable, "-m", "gemma4gguf", *export], capture_output=True, check=True)
    with ExitStack() as stack:
        machines = stack.enter_context(hosts(2))
        for host in machines:
            worker = [str(programs / "ggml-rpc-server"), "-H", host.address, "-p", str(RPC_PORT), "-t", "1"]
            subprocess.Popen([*host.inside, *worker], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            many.until(lambda host=host: _listens(host.address))  # type: ignore[misc]
        half = Bundle.open(bundle).text.metadata["gemma4.block_count"] // 2
        shares = f"{half},{half + 1}"  # the output counts as a layer
        workers = ",".join(f"{host.address}:{RPC_PORT}" for host in machines)
        here = [programs / "llama-server", "-m", work / "parts" / bundle.name, "-np", 1, "-t", 1]
        here += ["-c", many.HOW["context"]]
        commands = {"here": here, "by RPC": [*here, "--rpc", workers, "-ngl", 99, "-ts", shares, "-lv", 4]}
        logs = {name: work / f"{name}.log" for name in commands}
        addresses = {name: stack.enter_context(serve(command, logs[name])) for name, command in commands.items()}
        found: dict[str, list[many.Json]] = {name: [] for name in addresses}
        for i in range(args.lines):
            body = many.line("", f"What is {i} + {i % 89}?", max_tokens=LONGEST)["body"]
            for name, address in addresses.items():  # in turns, as machines drift
                found[name].append(ask(address, CHAT, body))
        loaded = logs["by RPC"].read_text(errors="replace").splitlines()
        print(*(row.partition("load_tensors:")[2].strip() for row in loaded if "model buffer size" in row), sep="\n")
    for name, said in found.items():
        cost = statistics.median(answer["timings"]["predicted_per_token_ms"] for answer in said)
        print(f"{name}: {cost:.2f} ms a token, the median of answers")
    texts = ([answer["choices"][0]["message"]["content"] for answer in said] for said in found.values())
    other = [(one, two) for one, two in zip(*texts, strict=True) if one != two]
    for one, two in other:
        print(f"{one!r} here, {two!r} by RPC")
    print(f"{args.lines} answers; {len(other)} differ")
    return not other


def _listens(address: str) -> bool:
    with suppress(OSError), socket.create_connection((address, RPC_PORT), 1):
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    checks = {check.__name__: check for check in (servers, ray, rpc)}
    parser.add_argument("check", choices=checks)
    parser.add_argument("--lines", type=int, default=500)
    parser.add_argument("--timeout", type=float, default=20, help="ray: seconds until an answer counts as hung [20]")
    parser.add_argument("--bundle", type=Path, help="another than the small model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundle = args.bundle or work / "tiny.gguf"
        if not args.bundle:
            convert(ROOT / "models" / "tiny", bundle, quant="Q8_0")
        good = checks[args.check](bundle, work, args)
    print("good" if good else "BAD")
    sys.exit(not good)


if __name__ == "__main__":
    main()
