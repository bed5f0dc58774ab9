#!/usr/bin/env python3
"""Long checks of `gemma4gguf serve` as a process of its own: each prints what it found, and fails where that is bad.

soak: clients ask for some time, a third of them leave in the middle, then the engine is killed, then SIGTERM comes.
hostile: the requests of tests/support/hostile.py under strace: what was opened and connected to, and how
    much memory it took.
schema: schemathesis on /openapi.json; its program must be found: `pip install schemathesis`.

With --log what was found is added to docs/serving.log.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.hostile import UNFINISHED, requests, send  # noqa: E402
from tests.support.serving import DEMO, encoded  # noqa: E402

CHAT = "/v1/chat/completions"
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(DEMO / 'digits.png')}"}}
CLIP = {"type": "input_audio", "input_audio": {"data": encoded(DEMO / "number.wav"), "format": "wav"}}
ENDLESS = {str(token): -100 for token in range(1, 120)}  # bans the end tokens, among others
SAMPLE_S = 1
CACHE = 16 << 20  # bytes that the engine keeps of caches, in soak: so few that they are full before half time
LOG = ROOT / "docs" / "serving.log"
REQUESTS = re.compile(r'^gemma4gguf_requests_total\{.*status="(\d+)"\} (\d+)$', re.MULTILINE)
NEVER_OPENED = re.compile(r'"(/etc/passwd|/etc/shadow|/dev/zero|/proc/self/environ|.*win\.ini|.*id_rsa)"')


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url, self.port = process, url, int(url.rpartition(":")[2])
        self.pid = process.pid

    def megabytes(self) -> dict[str, float]:
        """What each process has of its own, and `all` of them together."""
        own = {"server": 0.0, "engine": 0.0}
        for pid in _below(self.pid):
            if pages := _read(Path(f"/proc/{pid}/statm")).split():
                size = (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6
                own["server" if pid == self.pid else "engine"] += size
        return {**own, "all": sum(own.values())}

    def sockets(self) -> int:
        found = 0
        for file in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(OSError):
                found += str(file.readlink()).startswith("socket:")
        return found

    def engine(self) -> int | None:
        """The engine's process; None while there is none."""
        below = [
            pid for pid in _below(self.pid) if pid != self.pid and "isolated" in _read(Path(f"/proc/{pid}/cmdline"))
        ]
        return below[0] if below else None


def _below(pid: int) -> list[int]:
    """A process and all that it and they have started."""
    found, new = list[int](), [pid]
    while new:
        found += new
        new = [int(c) for pid in new for task in Path(f"/proc/{pid}/task").glob("*/children")
               for c in _read(task).split()]  # fmt: skip
    return found


def _told(args: argparse.Namespace, line: str) -> None:
    """Print a line about what was found, and keep it where that is asked for."""
    line = f"{args.check}: {line}"
    print(line, flush=True)
    if args.log:
        with LOG.open("a", encoding="utf-8") as file:
            print(f"{datetime.now(timezone.utc):%Y-%m-%d} {line} commit={args.commit}", file=file)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@contextmanager
def server(bundle: Path, *options: str, under: tuple[str, ...] = ()) -> Iterator[Server]:
    """A server in a process of its own. One thread: where other work runs, several wait for each other for seconds."""
    command = [*under, sys.executable, "-m", "gemma4gguf", "serve", str(bundle), "--port", "0"]
    command += ["--threads", "1", *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log, text=True)
        try:
            while not (found := re.search(r"http://\S+:\d+", _logged(log))):
                assert process.poll() is None, _logged(log)
                time.sleep(0.1)
            running = Server(process, found[0])
            if under:
                running.pid = next(pid for pid in _below(process.pid) if pid != process.pid)
            yield running
            said = _logged(log)
            assert "Traceback" not in said, said[-3000:]
        finally:
            for pid in reversed(_below(process.pid)):  # strace leaves what it follows
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def _logged(log: Any) -> str:
    log.seek(0)
    text: str = log.read()
    return text


# ── soak ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def soak(bundle: Path, args: argparse.Namespace) -> bool:
    found: Counter[str] = Counter()
    memory: list[dict[str, float]] = []
    options = ["--context", "2048", "--parallel", "4", "--max-answer", "256", "--grace", "2"]
    with server(bundle, *options, "--cache-memory", str(CACHE)) as running:
        idle = running.sockets()
        until = time.monotonic() + args.seconds
        clients = [threading.Thread(target=_client, args=(running.url, i, until, found)) for i in range(args.clients)]
        for client in clients:
            client.start()
        while time.monotonic() < until:
            time.sleep(SAMPLE_S)
            memory.append(running.megabytes())
        for client in clients:
            client.join()
        time.sleep(1)
        means = _means(memory)
        half = means[len(means) // 2 :]
        growth = {name: max(at[name] for at in half) - own for name, own in half[0].items()}
        left = running.sockets() - idle
        answers = ", ".join(f"{kind}: {n}" for kind, n in found.most_common())
        _told(args, f"{args.clients} clients for {args.seconds:g} s: {answers}")
        memory_said = f"{half[0]['all']:.1f} MB of its own at half time, {growth['all']:+.1f} MB at most from then on"
        memory_said += f" (server {growth['server']:+.1f}, engine {growth['engine']:+.1f}; means of tenths of the time)"
        _told(args, f"{memory_said}; {left} sockets left")
        waits = [_kill(running, signal.SIGKILL if i % 2 else signal.SIGABRT) for i in range(args.kills)]
        survived = [wait for wait in waits if wait is not None]
        slowest = f"within {max(survived, default=0):.1f} s"
        _told(args, f"engine killed {args.kills} times in an answer: {len(survived)} next questions worked, {slowest}")
        ended = _sigterm(running)
        status = running.process.wait(60)
        _told(args, f"SIGTERM in the middle: {ended} of 4 streams had their last event; exit status {status}")
    bad = {kind: n for kind, n in found.items() if kind not in ("right", "left", "429")}
    good = not bad and growth["all"] < 20 and left <= 0 and len(survived) == args.kills and ended == 4
    return good and status == 0


def _means(memory: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The mean of each tenth of the time: what requests take while they are answered goes up and down by the second."""
    tenths = [part for i in range(10) if (part := memory[len(memory) * i // 10 : len(memory) * (i + 1) // 10])]
    return [{name: sum(at[name] for at in part) / len(part) for name in part[0]} for part in tenths]


def _client(url: str, seed: int, until: float, found: Counter[str]) -> None:
    choose = random.Random(seed)
    with httpx.Client(base_url=url, timeout=600) as client:
        while time.monotonic() < until:
            try:
                told = _ask(client, choose)
                found[told] += 1
                time.sleep(choose.random() * 2 if told == "429" else 0)
            except Exception as error:
                found[f"{type(error).__name__}: {error}"[:80]] += 1


def _ask(client: httpx.Client, choose: random.Random) -> str:
    a, b = choose.randint(3, 49), choose.randint(3, 49)
    content, wanted = choose.choice(
        [
            ([{"type": "text", "text": f"What is {a} + {b}?"}], f"{a} + {b} = {a + b}"),
            ([PICTURE, {"type": "text", "text": "What number is this?"}], "I read the number 4072."),
            ([{"type": "text", "text": "What is said?"}, CLIP], "I hear the digit 7."),
        ]
    )
    leaves = choose.random() < 1 / 3
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "temperature": 0, "stream": True}
    if leaves:
        body |= {"logit_bias": ENDLESS, "max_tokens": 200}
    said = ""
    with client.stream("POST", CHAT, json=body) as reply:
        if reply.status_code != 200:
            return str(reply.status_code)
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                return str(event["error"]["message"])
            said += (event["choices"][0]["delta"].get("content") or "") if event["choices"] else ""
            if leaves and said:
                return "left"
    return "right" if said == wanted else f"wrong: {said!r}, not {wanted!r}"


def _kill(running: Server, number: int) -> float | None:
    """Kill the engine in the middle of an answer. Seconds of the next question; None where either goes wrong."""
    endless = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "logit_bias": ENDLESS}
    with httpx.Client(base_url=running.url, timeout=120) as client:
        with client.stream("POST", CHAT, json=endless) as reply:
            lines = reply.iter_lines()
            next(lines)
            if engine := running.engine():
                os.kill(engine, number)
            ended = any('"error"' in line for line in lines)
        begun = time.monotonic()
        return time.monotonic() - begun if ended and _ask_plainly(client) else None


def _ask_plainly(client: httpx.Client) -> bool:
    body = {"messages": [{"role": "user", "content": "What is 47 + 38?"}], "temperature": 0}
    reply = client.post(CHAT, json=body)
    return reply.status_code == 200 and reply.json()["choices"][0]["message"]["content"] == "47 + 38 = 85"


def _sigterm(running: Server) -> int:
    """How many open streams end with their last event."""
    ended: list[bool] = []
    begun = threading.Barrier(5)

    def stream() -> None:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "logit_bias": ENDLESS}
        with httpx.stream("POST", running.url + CHAT, json=body, timeout=120) as reply:
            lines = reply.iter_lines()
            next(lines)
            begun.wait(60)
            ended.append("data: [DONE]" in list(lines))

    streams = [threading.Thread(target=stream) for _ in range(4)]
    for thread in streams:
        thread.start()
    begun.wait(60)
    os.kill(running.pid, signal.SIGTERM)
    for thread in streams:
        thread.join(60)
    return sum(ended)


# ── hostile, schema ──────────────────────────────────────────────────────────────────────────────────────────────────


def hostile(bundle: Path, args: argparse.Namespace) -> bool:
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as trace:
        strace = ("strace", "-f", "-qq", "-e", "trace=open,openat,connect", "-o", trace.name)
        with server(bundle, "--context", "2048", "--parallel", "2", under=strace) as running:
            before = most = running.megabytes()["all"]
            begun = len(_read(Path(trace.name)))
            found = Counter[int | None]()
            for name, data in requests():
                found[send(running.port, data, name not in UNFINISHED)] += 1
                most = max(most, running.megabytes()["all"])
            calls = _read(Path(trace.name))[begun:]
            with httpx.Client(base_url=running.url, timeout=120) as client:
                works = _ask_plainly(client)
    opened = NEVER_OPENED.findall(calls)
    connected = [line for line in calls.splitlines() if "connect(" in line and "AF_INET" in line]
    statuses = ", ".join(f"{status or 'closed'}: {n}" for status, n in sorted(found.items(), key=str))
    _told(args, f"{found.total()} requests, by status: {statuses}; a question afterwards works: {works}")
    reached = f"opened what a request named: {len(opened)}; connected: {len(connected)}"
    _told(args, f"{reached}; memory {most - before:+.0f} MB at most")
    return works and not opened and not connected and most - before < 500 and not any((s or 0) >= 500 for s in found)


def schema(bundle: Path, args: argparse.Namespace) -> bool:
    with (
        server(bundle, "--context", "512", "--parallel", "4", "--max-answer", "4", "--queue", "64") as running,
        httpx.Client(base_url=running.url, timeout=120) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        operations = [one for path in client.get("/openapi.json").json()["paths"].values() for one in path.values()]
        varied = sum("requestBody" in one or "parameters" in one for one in operations)  # the others take one example
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        command = ["schemathesis", "run", f"{running.url}/openapi.json", "-c", checks, "-n"]
        command += [str(-(-args.examples // varied)), "--phases", "examples,coverage,fuzzing", "--workers", "2"]
        command += ["--request-timeout", "60"]  # on a busy machine an answer takes more than the usual 10 s
        done = subprocess.run(command, cwd=folder)
        counted = REQUESTS.findall(client.get("/metrics").text)
    found = Counter[str]()
    for status, n in counted:
        found[status] += int(n)
    statuses = ", ".join(f"{status}: {n}" for status, n in sorted(found.items()))
    _told(args, f"{found.total()} requests to {len(operations)} operations, by status: {statuses}")
    _told(args, f"schemathesis ended with status {done.returncode}")
    return done.returncode == 0 and not any(status >= "500" for status in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=("soak", "hostile", "schema"))
    parser.add_argument("bundle", type=Path, help="the tiny model as a bundle; the answers of soak are its own")
    parser.add_argument("--seconds", type=float, default=600, help="of soak [600]")
    parser.add_argument("--clients", type=int, default=50, help="of soak [50]")
    parser.add_argument("--kills", type=int, default=20, help="of the engine, in soak [20]")
    parser.add_argument("--examples", type=int, default=5000, help="of schema, in all [5000]")
    parser.add_argument("--log", action="store_true", help=f"add what was found to {LOG.relative_to(ROOT)}")
    args = parser.parse_args()
    git = ("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    args.commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"  # the code that runs
    checks = {"soak": soak, "hostile": hostile, "schema": schema}
    sys.exit(not checks[args.check](args.bundle, args))


if __name__ == "__main__":
    main()
