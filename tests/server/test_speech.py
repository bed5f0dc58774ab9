"""OpenAI's transcriptions and translations, by the `openai` package: what `transcribe` gives in process."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import soundfile

from gemma4gguf import Segment
from gemma4gguf.server.settings import Limits
from gemma4gguf.tools.subtitles import FORMATS
from tests.support.serving import DEMO, Serving, eventually, serving
from tests.support.spoken import RATE, memo

SECONDS = 7
PATH = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def alone(tiny_bundle: Path) -> Iterator[Serving]:
    """A server in which each question finds the same in the cache: the small model was never asked these, and says
    anything, which a rounding may change.
    """
    with serving(tiny_bundle, parallel=1, context=512, cache_memory=0) as running:
        running.model.generate("Hi", max_tokens=1)
        yield running


@pytest.fixture(scope="module")
def sound() -> bytes:
    """A few words, with pauses between them."""
    file = io.BytesIO()
    soundfile.write(file, memo(0)[0][: SECONDS * RATE], RATE, format="FLAC")
    return file.getvalue()


@pytest.fixture(scope="module")
def segments(alone: Serving, sound: bytes) -> list[Segment]:
    found = list(alone.model.transcribe(sound))
    assert len(found) > 2
    return found


@pytest.fixture(scope="module")
def audio(alone: Serving) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{alone.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client.audio


def said(segments: list[Segment]) -> str:
    return " ".join(line for line in FORMATS["txt"](segments).split("\n") if line)


def test_the_same_as_in_process(audio: Any, sound: bytes, segments: list[Segment]) -> None:
    reply = audio.transcriptions.create(file=("memo.flac", sound), model="tiny")
    assert reply.text == said(segments)
    assert (reply.usage.type, reply.usage.seconds) == ("duration", SECONDS)
    for form, wanted in (
        ("text", said(segments) + "\n"),
        ("srt", FORMATS["srt"](segments)),
        ("vtt", FORMATS["vtt"](segments)),
    ):
        assert audio.transcriptions.create(file=sound, model="tiny", response_format=form) == wanted


def test_times(audio: Any, sound: bytes, segments: list[Segment]) -> None:
    how: Any = {"response_format": "verbose_json", "timestamp_granularities": ["segment"], "temperature": 0}
    reply = audio.transcriptions.create(file=sound, model="tiny", **how)
    assert [(s.id, s.start, s.end, s.text, s.doubt) for s in reply.segments] == [
        (number, s.start, s.end, s.text, s.doubt) for number, s in enumerate(segments)
    ]
    assert (reply.duration, reply.language, reply.text) == (SECONDS, "unknown", said(segments))


def test_a_stream(audio: Any, sound: bytes, segments: list[Segment]) -> None:
    *deltas, done = audio.transcriptions.create(file=sound, model="tiny", stream=True)
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert len(deltas) == sum(bool(segment.text or segment.doubt) for segment in segments)
    assert "".join(event.delta for event in deltas) == said(segments)
    assert (done.type, done.text) == ("transcript.text.done", said(segments))


def test_what_the_model_is_told(audio: Any, alone: Serving, sound: bytes) -> None:
    own = list(alone.model.transcribe(sound, language="German", hint="Ada"))
    for language in ("de-AT", "German"):
        reply = audio.transcriptions.create(file=sound, model="tiny", language=language, prompt="Ada")
        assert reply.text == said(own)
    own = list(alone.model.transcribe(sound, task="translate", hint="Ada"))
    reply = audio.translations.create(file=sound, model="tiny", prompt="Ada", response_format="verbose_json")
    assert (reply.text, reply.language, reply.task) == (said(own), "english", "translate")


def test_silence_is_no_question(audio: Any) -> None:
    silent = io.BytesIO()
    soundfile.write(silent, [0.0] * RATE, RATE, format="WAV")
    assert audio.transcriptions.create(file=silent.getvalue(), model="tiny").text == ""
    (done,) = audio.transcriptions.create(file=silent.getvalue(), model="tiny", stream=True)
    assert done.text == ""


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"temperature": 2}, "temperature"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities[0]"),
        ({"language": "x" * 65}, "language"),
        ({"file": b"no sound"}, "file"),
        ({"file": b""}, "file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_the_field(audio: Any, sound: bytes, how: dict[str, Any], field: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        audio.transcriptions.create(**{"file": sound, "model": "tiny", **how})
    assert (caught.value.type, caught.value.param) == ("invalid_request_error", field)
    assert field in caught.value.message


def test_no_file(alone: Serving) -> None:
    reply = httpx.post(alone.url + PATH, files={"model": (None, "tiny")})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "file")


def test_limits(tiny_bundle: Path, sound: bytes) -> None:
    with serving(tiny_bundle, limits=Limits(sound=5), parallel=1) as running:
        reply = httpx.post(running.url + PATH, files={"file": sound})
        assert (reply.status_code, "5 s were left" in reply.json()["error"]["message"]) == (413, True)
    with serving(tiny_bundle, limits=Limits(seconds=0), parallel=1) as running:
        for stream in ("false", "true"):
            reply = httpx.post(running.url + PATH, files={"file": sound}, data={"stream": stream})
            assert reply.status_code == 503
            assert "cut off" in reply.json()["error"]["message"]
        eventually(lambda: running.service.live == 0 and not running.model.engine.scheduler.live)


def test_clients_that_leave_end_it(alone: Serving, sound: bytes) -> None:
    """They leave at the first word of a long sound; the next answer does not wait for the rest."""
    with httpx.stream("POST", alone.url + PATH, files={"file": sound}, data={"stream": "true"}, timeout=120) as reply:
        next(reply.iter_lines())
    eventually(lambda: alone.service.live == 0 and not alone.model.engine.scheduler.live)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("transcribe")]


def test_beside_each_other(server: Serving, sound: bytes, segments: list[Segment]) -> None:
    """Several at once, on two places: each has its own times."""
    clip = (DEMO / "number.wav").read_bytes()
    long, short = ([(s.start, s.end) for s in found] for found in (segments, server.model.transcribe(clip)))

    def ask(data: bytes) -> list[tuple[float, float]]:
        form = {"response_format": "verbose_json"}
        reply = httpx.post(server.url + PATH, files={"file": data}, data=form, timeout=300).json()
        return [(segment["start"], segment["end"]) for segment in reply["segments"]]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, [sound, clip, sound, clip])) == [long, short, long, short]
