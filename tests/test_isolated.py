"""An engine in a process of its own: the same answers, and nothing but the answers ends where it ends."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma4gguf import BusyError, ContextError, Ear, Gemma4, InputError, NativeError
from gemma4gguf.isolated.engine import IsolatedEngine
from gemma4gguf.isolated.process import Process
from gemma4gguf.isolated.wire import Wire
from tests.support.spoken import RATE, clips

DEMO = Path(__file__).parents[1] / "models" / "demo"
QUESTIONS: list[dict[str, Any]] = [
    {"prompt": "What is 47 + 38?"},
    {"prompt": "What is 47 + 38?", "thinking": True},
    {"prompt": "What number is this?", "images": [DEMO / "digits.png"]},
    {"prompt": "What is said?", "audio": [DEMO / "number.wav"]},
]
HOW: dict[str, Any] = {"temperature": 0, "max_tokens": 48}


def opened(path: Path, **options: Any) -> Gemma4:
    return Gemma4(path, **{"context": 4096, "threads": 1, "draft": "off", "isolate": True, **options})


def engine_of(model: Gemma4) -> IsolatedEngine:
    engine = model._parts.engine
    assert isinstance(engine, IsolatedEngine)
    return engine


def kill(model: Gemma4, number: int = signal.SIGKILL) -> None:
    """And wait until it has ended."""
    engine = engine_of(model)
    pid = engine.pid
    assert pid
    os.kill(pid, number)
    while engine.pid == pid:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def isolated(tiny_bundle: Path) -> Iterator[Gemma4]:
    with opened(tiny_bundle, parallel=2) as model:
        yield model


@pytest.fixture(scope="module")
def here(tiny_bundle: Path) -> Iterator[Gemma4]:
    with opened(tiny_bundle, isolate=False) as model:
        yield model


@pytest.fixture(scope="module")
def long(here: Gemma4) -> dict[str, Any]:
    """A question whose answer has no end."""
    return {"prompt": "Talk.", "temperature": 0, "logit_bias": dict.fromkeys(here.engine.rules.end, -100.0)}


@pytest.mark.parametrize("question", QUESTIONS, ids=["text", "thought", "picture", "sound"])
def test_the_same_answers(isolated: Gemma4, here: Gemma4, question: dict[str, Any]) -> None:
    read: list[tuple[int, int]] = []
    ours = isolated.generate(**question, **HOW, on_progress=lambda *at: read.append(at))
    own = here.generate(**question, **HOW)
    assert (ours.text, ours.thought, ours.finish_reason) == (own.text, own.thought, own.finish_reason)
    assert (ours.tokens.prompt, ours.tokens.image, ours.tokens.audio) == (
        own.tokens.prompt,
        own.tokens.image,
        own.tokens.audio,
    )
    assert read[-1] == (own.tokens.prompt, own.tokens.prompt)
    seeded = {**question, "temperature": 1.0, "seed": 7, "max_tokens": 24}
    assert isolated.generate(**seeded).text == here.generate(**seeded).text


def test_a_conversation_that_drops_turns(isolated: Gemma4, here: Gemma4) -> None:
    """Its media are read to count them, before the engine gets them."""
    picture = {"type": "image", "image": (DEMO / "digits.png").read_bytes()}
    messages: Any = [{"role": "user", "content": [picture, {"type": "text", "text": "What number is this?"}]}]
    for model in (isolated, here):
        result = model.chat(messages, on_full="drop", **HOW)
        assert (result.text, result.dropped_turns) == ("I read the number 4072.", 0)


def test_logits(isolated: Gemma4, here: Gemma4) -> None:
    ours, own = isolated.evaluate("What is 47 + 38?"), here.evaluate("What is 47 + 38?")
    np.testing.assert_array_equal(ours.ids, own.ids)
    np.testing.assert_array_equal(ours.logits, own.logits)


def test_errors_and_warnings_come_through(isolated: Gemma4) -> None:
    with pytest.raises(ContextError, match="the context holds 4,096"):
        isolated.generate("long " * 5000, **HOW)
    late: Any = [{"role": "user", "content": [{"type": "text", "text": "word " * 500}, _clip()]}]
    with pytest.warns(UserWarning, match="sound begins at position"):
        isolated.chat(late, max_tokens=1)
    with pytest.raises(InputError, match="process of its own"):
        _ = isolated.engine


def _clip() -> dict[str, object]:
    return {"type": "audio", "audio": (DEMO / "number.wav").read_bytes()}


def test_from_many_threads_and_from_a_loop(isolated: Gemma4, here: Gemma4) -> None:
    sums = [f"What is {i} + {i + 3}?" for i in range(12)]
    with ThreadPoolExecutor(6) as pool:
        ours = list(pool.map(lambda text: isolated.generate(text, **HOW).text, sums))

    async def asked() -> list[str]:
        return [result.text for result in await asyncio.gather(*(isolated.agenerate(text, **HOW) for text in sums))]

    assert ours == asyncio.run(asked()) == [here.generate(text, **HOW).text for text in sums]


def test_a_stream_that_is_left_frees_its_place(tiny_bundle: Path, long: dict[str, Any]) -> None:
    with opened(tiny_bundle) as model:
        with closing(model.stream(**long)) as stream:
            next(stream)
            with pytest.raises(BusyError):
                model.generate("Hi", wait=False)
        assert model.generate("What is 47 + 38?", **HOW).text == "47 + 38 = 85"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_the_process_ends_in_the_middle(tiny_bundle: Path, long: dict[str, Any], number: int) -> None:
    with opened(tiny_bundle, parallel=2) as model:
        streams = [model.stream(**long), model.stream(**long)]
        for stream in streams:
            next(stream)
        kill(model, number)
        for stream in streams:
            with pytest.raises(NativeError, match=rf"has ended \({signal.Signals(number).name}\); ask again"):
                list(stream)
        assert model.generate("What is 47 + 38?", **HOW).text == "47 + 38 = 85"


def test_it_starts_without_drafts_where_it_ended_while_drafting(tiny_bundle: Path, long: dict[str, Any]) -> None:
    with opened(tiny_bundle, draft=2) as model:
        assert model.generate("What is 47 + 38?", **HOW).draft.proposed
        kill(model)  # nothing is being made: no reason to do without
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert model.generate("What is 47 + 38?", **HOW).draft.proposed
        stream = model.stream(**long)
        next(stream)
        kill(model)
        with pytest.raises(NativeError):
            list(stream)
        with pytest.warns(UserWarning, match="goes on without drafts"):
            result = model.generate("What is 47 + 38?", **HOW)
        assert (result.text, result.draft.proposed) == ("47 + 38 = 85", 0)


def test_a_file_that_changed_is_not_opened_again(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_bundle.read_bytes())
    with opened(path) as model:
        model.load()
        kill(model)
        os.utime(path)
        with pytest.raises(Exception, match="was changed or replaced"):
            model.generate("Hi", **HOW)


def test_closing_ends_the_process_and_its_answers(tiny_bundle: Path, long: dict[str, Any]) -> None:
    model = opened(tiny_bundle)
    stream = model.stream(**long)
    next(stream)
    pid = engine_of(model).pid
    assert pid
    model.close()
    with pytest.raises(InputError, match="is closed"):
        list(stream)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def _process_of(model: Gemma4) -> Process:
    process = engine_of(model)._process
    assert process
    return process


def test_it_is_told_to_end(tiny_bundle: Path, tmp_path: Path) -> None:
    """So what it was writing to a disk is there, whole."""
    system: Any = [{"role": "system", "content": "Be brief. " * 60}, {"role": "user", "content": "What is 47 + 38?"}]
    with opened(tiny_bundle, cache_dir=tmp_path) as model:
        model.chat(system, **HOW)
        process = _process_of(model)
    assert process._popen.returncode == 0
    assert [file.suffix for file in tmp_path.rglob("*") if file.is_file()] == [".state"]
    with opened(tiny_bundle, cache_dir=tmp_path) as model:
        assert model.chat(system, **HOW).tokens.reused > 100


def test_one_that_does_not_listen_is_killed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemma4gguf.isolated.process.GRACE_S", 0.1)
    with opened(tiny_bundle) as model:
        model.load()
        process = _process_of(model)
        os.kill(process.pid, signal.SIGSTOP)
    assert process._popen.returncode == -signal.SIGKILL


def test_it_ends_with_whoever_asked(tiny_bundle: Path) -> None:
    code = (
        "import os, signal, sys; from gemma4gguf import Gemma4; m = Gemma4(sys.argv[1], context=512, isolate=True); "
        "m.load(); print(m._parts.engine.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_bundle)], stdout=subprocess.PIPE, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    process = Path(f"/proc/{int(done.stdout)}")
    for _ in range(600):
        if not process.exists() or "(zombie)" in (process / "status").read_text():
            return
        time.sleep(0.1)
    raise AssertionError("the engine's process is still there")


# ── listening ────────────────────────────────────────────────────────────────────────────────────────────────────


def fed(ear: Ear, clip: Any, piece: int = 3000) -> None:
    for start in range(0, len(clip), piece):
        ear.feed(clip[start : start + piece], RATE)


def test_it_listens(isolated: Gemma4, here: Gemma4) -> None:
    """Two turns, and one that is longer than a window."""
    (_, one), (_, two) = clips()[:2]
    told: list[list[str]] = []
    for model in (isolated, here):
        chat = model.conversation()
        for clip in (one, two, np.concatenate([one, np.zeros(RATE * 32, np.float32), two])):
            with chat.hear("What is said?", transcript_prompt="What is said?") as ear:
                fed(ear, clip[: len(clip) // 2])
                ear.pause()
                fed(ear, clip[len(clip) // 2 :])
                assert 0 <= ear.behind <= ear.seconds
                ear.pause()
                ear.answer(**HOW)
            with pytest.raises(InputError, match="this turn is over"):
                fed(ear, clip)
        told.append([str(message["content"]) for message in chat.messages if message["role"] == "assistant"])
        kinds = [[part["type"] for part in message["content"]] for message in chat.messages[::2]]  # type: ignore
        assert kinds == [["text", "input_audio"], ["text", "input_audio"], ["text"]]  # the last one is too long
    assert told[0] == told[1]


def test_a_listener_that_leaves_frees_its_place(tiny_bundle: Path) -> None:
    with opened(tiny_bundle) as model:
        for _ in range(3):
            with model.conversation().hear() as ear:
                fed(ear, clips()[0][1])
                with pytest.raises(BusyError):
                    model.generate("Hi", wait=False)
        assert model.generate("What is 47 + 38?", **HOW).text == "47 + 38 = 85"


def test_the_process_ends_while_it_listens(tiny_bundle: Path) -> None:
    with opened(tiny_bundle) as model:
        with model.conversation().hear() as ear:
            fed(ear, clips()[0][1])
            process = engine_of(model)._process
            assert process
            kill(model)
            while process._reason is None:
                time.sleep(0.01)
            with pytest.raises(NativeError, match=r"has ended \(SIGKILL\)"):
                fed(ear, clips()[0][1])
            with pytest.raises(NativeError, match=r"has ended \(SIGKILL\)"):
                ear.answer(**HOW)
        with model.conversation().hear() as ear:
            fed(ear, clips()[0][1])
            assert ear.answer(**HOW).text.startswith("I hear")


# ── what goes between them ───────────────────────────────────────────────────────────────────────────────────────


def test_messages_of_many_threads_arrive_whole_and_in_order() -> None:
    (reading, back), (forth, writing) = os.pipe(), os.pipe()
    wire, other = Wire(reading, writing, trusting=False), Wire(forth, back, trusting=False)
    sizes = [0, 1, 5_000, 70_000, 3_000_000, 2] * 5  # less and more than a pipe holds, and than is written at once

    def send(name: str) -> None:
        for at, size in enumerate(sizes):
            wire.send(name, at, bytes(size))

    with ThreadPoolExecutor(4) as pool:
        pool.map(send, "abcd")
        found = [other.receive() for _ in range(4 * len(sizes))]
    for name in "abcd":
        assert [(at, len(data)) for sender, at, data in found if sender == name] == list(enumerate(sizes))
    wire.close()
    with pytest.raises(EOFError):
        other.receive()
    other.close()


def test_what_an_engine_sends_is_not_believed() -> None:
    reading, writing = os.pipe()
    wire, other = Wire(reading, os.dup(writing), trusting=False), Wire(os.dup(reading), writing, trusting=True)
    other.send(1, _Evil())
    with pytest.raises(pickle.UnpicklingError, match="is nothing that an engine sends"):
        wire.receive()
    wire.close()
    other.close()


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("false",)
