"""Greedy continuations of token ids by four runtimes, from any file that is a text model to them.

One thread each: several threads that wait actively take minutes where other work runs.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from gemma4gguf import Gemma4
from gemma4gguf.native.sampler import Sampler, SamplingOptions
from gemma4gguf.runtime.answer import Rules
from gemma4gguf.runtime.decode import decode
from gemma4gguf.runtime.prompt import BOS, token_id
from gemma4gguf.runtime.session import Span

GREEDY = SamplingOptions(temperature=0, top_k=0, top_p=1, min_p=0, seed=0)
CONTEXT = 1024
Ids = list[int]


@dataclass(frozen=True)
class Job:
    """Prompts as ids, how many tokens to add, which never to choose, which end an answer (itself included)."""

    prompts: list[Ids]
    steps: int
    suppressed: Ids
    end: Ids


def prepare(path: Path, texts: Sequence[str], steps: int) -> Job:
    """The job of continuing texts, by the file's own tokenizer and rules."""
    with Gemma4(path, context=CONTEXT, image_tokens=70, threads=1) as model:
        vocab = model.engine.weights.vocab
        rules = Rules.of(vocab, model.bundle.text.metadata)
        prompts = [[token_id(vocab, BOS), *vocab.tokenize(text, special=True)] for text in texts]
    return Job(prompts, steps, sorted(rules.suppressed), sorted(rules.end))


def ours(path: Path, job: Job) -> list[Ids]:
    with Gemma4(path, context=CONTEXT, image_tokens=70, threads=1) as model:
        session = model.engine.session
        answers = []
        with Sampler(GREEDY, job.suppressed) as sampler:
            for prompt in job.prompts:
                session.clear()
                session.feed([Span(prompt)])
                answers.append(list(decode(session, sampler, frozenset(job.end), job.steps)))
    return answers


def firm(path: Path, job: Job, margin: float) -> Job:
    """The prompts whose every greedy choice is ahead of the next best by `margin`.

    A random model has ties, and builds of llama.cpp differ in the last bits: there any choice is right.
    """
    kept = []
    with Gemma4(path, context=CONTEXT, image_tokens=70, threads=1) as model:
        session = model.engine.session
        for prompt in job.prompts:
            session.clear()
            session.feed([Span(prompt)])
            for step in range(job.steps):
                logits = session.context.logits().copy()
                logits[job.suppressed] = -np.inf
                second, best = np.argsort(logits)[-2:]
                if logits[best] - logits[second] < margin:
                    break
                if best in job.end or step == job.steps - 1:
                    kept.append(prompt)
                    break
                session.step([int(best)])
    return replace(job, prompts=kept)


def llama_cpp_python(path: Path, job: Job) -> list[Ids]:
    model = llama_cpp.Llama(str(path), n_ctx=CONTEXT, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)

    def never(_: Any, scores: Any) -> Any:
        scores[job.suppressed] = -np.inf
        return scores

    rules = llama_cpp.LogitsProcessorList([never])
    try:
        answers = []
        for prompt in job.prompts:
            answer: Ids = []
            for token in model.generate(prompt, temp=0, top_k=1, repeat_penalty=1.0, logits_processor=rules):
                answer.append(int(token))
                if len(answer) == job.steps or token in job.end:
                    break
            answers.append(answer)
        return answers
    finally:
        model.close()


@contextmanager
def serve(command: Sequence[object], log: Path) -> Iterator[str]:
    """Run a llama-server command line on a free port; gives its address, stops it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(log, "wb") as out:
        process = subprocess.Popen([*map(str, command), "--port", str(port)], stdout=out, stderr=out)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(1200):
            assert process.poll() is None, f"llama-server stopped:\n{log.read_text(errors='replace')[-4000:]}"
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def ask(address: str, path: str, body: dict[str, Any] | None, timeout: float = 120) -> dict[str, Any]:
    """The JSON reply to a POST of `body`, or to a GET where it is None."""
    data, headers = None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=timeout) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


def complete(address: str, job: Job, **options: Any) -> list[dict[str, Any]]:
    """llama-server's whole answer to each prompt; `tokens` leaves the end token out."""
    body = {
        **{"n_predict": job.steps, "temperature": 0, "top_k": 1, "return_tokens": True, "cache_prompt": False},
        "logit_bias": [[token, False] for token in job.suppressed],
        **options,
    }
    return [ask(address, "/completion", {**body, "prompt": prompt}) for prompt in job.prompts]


def node(folder: Path, path: Path, job: Job, work: Path) -> tuple[list[Ids], str]:
    """node-llama-cpp's answers, and the llama.cpp release inside it."""
    (work / "job.json").write_text(json.dumps({**job.__dict__, "context": CONTEXT}))
    reply = json.loads(node_script(folder, "generate.mjs", path, work / "job.json"))
    return reply["answers"], reply["release"]


def node_script(folder: Path, name: str, *arguments: object) -> str:
    """Run a script of tests/peers/node with the packages of scripts/peers-node; what it prints."""
    script = folder / name
    script.write_bytes(
        (Path(__file__).parents[1] / "peers" / "node" / name).read_bytes()
    )  # beside node_modules, where it looks
    run = subprocess.run(
        [folder / "node", script, *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, f"{name} exited with {run.returncode}:\n{run.stderr[-4000:]}"
    return run.stdout
