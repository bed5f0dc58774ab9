#!/usr/bin/env python3
"""`gemma4gguf serve` beside llama-server on parts cut from the same bundle: chats of five turns, by 1, 2 and 4 clients.

    benchmarks/serve.py BUNDLE [--peers FOLDER] [--threads N] [--clients 1 2 4] [--rounds 3] [--tokens 64]
        [--text 400] [--parallel 4]

FOLDER is what scripts/peers prints. Both are asked over HTTP by the same client, one chat after the other in turns.
Every answer is one letter again and again, by a bias on its token, so that both write the same number of tokens. For
the first turn, with nothing of it in the cache, and the fifth: seconds to the first token, the median of clients and
rounds, and tokens a second of all clients together. Prints JSON; in `ours / llama-server` more is better.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf import Gemma4  # noqa: E402
from gemma4gguf.bundle.reading import EMBEDDER, TEXT, Bundle  # noqa: E402
from gemma4gguf.machine import physical_cores  # noqa: E402
from tests.support.runtimes import serve  # noqa: E402

CLIENTS, TURNS, CONTEXT = (1, 2, 4), 5, 4096
LETTER, CERTAIN = "a", 100
WORDS = "The quick brown fox jumps over the lazy dog while seven wizards quietly pack boxes of liquor jugs. "
SHOWN = {"first turn": 0, "fifth turn": TURNS - 1}


def turn(client: httpx.Client, messages: list[Any], tokens: int, letter: int) -> tuple[float, float]:
    """Ask, and append the answer. Seconds to its first piece, and to its end."""
    body = {"messages": messages, "stream": True, "max_tokens": tokens, "temperature": 0}
    begun, first, said = time.perf_counter(), 0.0, ""
    with client.stream("POST", "/v1/chat/completions", json={**body, "logit_bias": {str(letter): CERTAIN}}) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            choices = json.loads(line[6:])["choices"] if line.startswith("data: {") else []
            if choices and (new := choices[0]["delta"].get("content")):
                first, said = first or time.perf_counter() - begun, said + new
    messages.append({"role": "assistant", "content": said})
    return first, time.perf_counter() - begun


def chats(address: str, clients: int, round_: int, given: argparse.Namespace, letter: int) -> list[dict[str, float]]:
    """Chats of five turns, one for each client: seconds to the first token, and tokens a second, by turn."""
    text = WORDS * (given.text // len(WORDS.split()) + 1)
    talks: list[list[Any]] = [[] for _ in range(clients)]
    found = []
    fresh = httpx.Limits(max_keepalive_connections=0)  # llama-server closes connections that httpx would use again
    with httpx.Client(base_url=address, timeout=3600, limits=fresh) as client, ThreadPoolExecutor(clients) as pool:
        for number in range(TURNS):
            for who, talk in enumerate(talks):
                asked = f"{clients} {round_} {who} {text}" if number == 0 else f"And number {number}?"
                talk.append({"role": "user", "content": asked})
            begun = time.perf_counter()
            times = list(pool.map(lambda talk: turn(client, talk, given.tokens, letter), talks))
            took = time.perf_counter() - begun
            first = statistics.median(first for first, _ in times)
            found.append({"first_s": first, "tokens_s": clients * given.tokens / took})
    return found


def measured(addresses: dict[str, str], given: argparse.Namespace, letter: int) -> dict[str, Any]:
    """By server, by clients and by turn, the median of the rounds. The servers take turns: machines drift."""
    found: dict[str, Any] = {name: {} for name in addresses}
    for clients in given.clients:
        rounds: dict[str, list[list[dict[str, float]]]] = {name: [] for name in addresses}
        for number in range(given.rounds):
            for name, address in addresses.items():
                rounds[name].append(chats(address, clients, number, given, letter))
                print(f"{clients} clients, round {number}, {name}: {rounds[name][-1]}", file=sys.stderr)
        for name, chat in rounds.items():
            for point, at in SHOWN.items():
                middle = {key: round(statistics.median(turns[at][key] for turns in chat), 4) for key in chat[0][at]}
                found[name][f"{clients} clients, {point}"] = middle
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peers", type=Path, help="what scripts/peers prints")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, help="how many ask at once [1 2 4]")
    parser.add_argument("--parallel", type=int, default=max(CLIENTS), help="answers at once [4]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer [64]")
    parser.add_argument("--text", type=int, default=400, help="words of each first question [400]")
    given = parser.parse_args()
    places = given.parallel
    with Gemma4(given.bundle) as model:
        letter = model.tokenize(LETTER)[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = [sys.executable, "-m", "gemma4gguf", "serve", given.bundle, "--parallel", places, "--context", CONTEXT]
        ours += ["--threads", given.threads, "--draft", "off"]
        ours += ["--no-disk-cache"]  # so that a first turn is one
        commands = {"ours": ours}
        if given.peers:
            opened = Bundle.open(given.bundle)
            for name in (TEXT, EMBEDDER):
                (folder / name).write_bytes(b"".join(opened.require(name).copy()))
            theirs = [given.peers / "bin" / "llama-server", "-m", folder / TEXT, "--mmproj", folder / EMBEDDER]
            theirs += ["-np", places, "-c", CONTEXT * places, "-t", given.threads, "--jinja", "-fa", "on"]
            commands["llama-server"] = theirs
        addresses = {
            name: stack.enter_context(serve(command, folder / f"{name}.log")) for name, command in commands.items()
        }
        found = measured(addresses, given, letter)
        if given.peers:
            found["ours / llama-server"] = {
                point: {
                    "first": round(found["llama-server"][point]["first_s"] / row["first_s"], 2),
                    "tokens": round(row["tokens_s"] / found["llama-server"][point]["tokens_s"], 2),
                }
                for point, row in found["ours"].items()
            }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
