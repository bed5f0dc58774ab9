"""OpenAI's transcriptions and translations: forms to what is asked of a clip, segments to bodies and events."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field

from ..tools.subtitles import FORMATS, words
from ..transcription import Segment, Task
from .request import Body, Event, Json, dumped

LONGEST_LANGUAGE = 64
SEEK_A_SECOND = 100  # by which other servers count
# Clients name languages by ISO 639-1; the model is told their names.
_LANGUAGES = """
    af=Afrikaans ar=Arabic az=Azerbaijani be=Belarusian bg=Bulgarian bs=Bosnian ca=Catalan cs=Czech cy=Welsh da=Danish
    de=German el=Greek en=English es=Spanish et=Estonian fa=Persian fi=Finnish fr=French gl=Galician he=Hebrew hi=Hindi
    hr=Croatian hu=Hungarian hy=Armenian id=Indonesian is=Icelandic it=Italian ja=Japanese kk=Kazakh kn=Kannada
    ko=Korean lt=Lithuanian lv=Latvian mi=Maori mk=Macedonian mr=Marathi ms=Malay ne=Nepali nl=Dutch no=Norwegian
    pl=Polish pt=Portuguese ro=Romanian ru=Russian sk=Slovak sl=Slovenian sr=Serbian sv=Swedish sw=Swahili ta=Tamil
    th=Thai tl=Tagalog tr=Turkish uk=Ukrainian ur=Urdu vi=Vietnamese zh=Chinese
"""
LANGUAGES: Mapping[str, str] = dict(language.split("=") for language in _LANGUAGES.split())
Form: TypeAlias = Literal["json", "text", "srt", "verbose_json", "vtt"]


class Translation(Body):
    """The form of /v1/audio/translations. Its values are texts, which stand for numbers and truths too."""

    model_config = ConfigDict(strict=False)

    file: bytes
    model: str | None = None
    prompt: str | None = None
    response_format: Form = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0
    stream: bool = False


class Transcription(Translation):
    """The form of /v1/audio/transcriptions."""

    language: Annotated[str, Field(max_length=LONGEST_LANGUAGE)] | None = None
    timestamp_granularities: list[Literal["segment"]] | None = None


@dataclass(frozen=True)
class Heard:
    """A clip that is to be written down. `seconds`: how long it is; `language`: the name of what is spoken."""

    body: Translation
    task: Task
    seconds: float

    @property
    def language(self) -> str | None:
        given = self.body.language if isinstance(self.body, Transcription) else None
        return LANGUAGES.get(given.lower().partition("-")[0], given) if given else None


def text(segments: Sequence[Segment]) -> str:
    """All that is said."""
    return " ".join(filter(None, map(words, segments)))


def _usage(heard: Heard) -> Json:
    return {"usage": {"type": "duration", "seconds": round(heard.seconds, 3)}}


def _json(heard: Heard, segments: Sequence[Segment]) -> str:
    return dumped({"text": text(segments), **_usage(heard)}).decode()


def _verbose(heard: Heard, segments: Sequence[Segment]) -> str:
    """What nobody measures here is 0; `doubt` is ours."""
    spoken = "English" if heard.task == "translate" else heard.language or "unknown"
    body = {
        "task": heard.task,
        "language": spoken.lower(),
        "duration": round(heard.seconds, 3),
        "text": text(segments),
        "segments": [_segment(number, segment, heard.body.temperature) for number, segment in enumerate(segments)],
        **_usage(heard),
    }
    return dumped(body).decode()


def _segment(number: int, segment: Segment, temperature: float) -> Json:
    said = segment.text.encode()
    return {
        "id": number,
        "seek": round(segment.start * SEEK_A_SECOND),
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": temperature,
        "avg_logprob": 0.0,
        "compression_ratio": len(said) / len(zlib.compress(said)),
        "no_speech_prob": 0.0,
        "doubt": segment.doubt,
    }


JSON, TEXT = "application/json", "text/plain; charset=utf-8"
# By `response_format`: the media type and what makes the body.
BODIES: Mapping[Form, tuple[str, Callable[[Heard, Sequence[Segment]], str]]] = {
    "json": (JSON, _json),
    "verbose_json": (JSON, _verbose),
    "text": (TEXT, lambda _, segments: f"{text(segments)}\n"),
    "srt": (TEXT, lambda _, segments: FORMATS["srt"](segments)),
    "vtt": (TEXT, lambda _, segments: FORMATS["vtt"](segments)),
}


async def events(heard: Heard, segments: AsyncIterator[Segment]) -> AsyncIterator[Event]:
    """Each segment's words as they are written down, then all of them."""
    said = ""
    async for segment in segments:
        if new := words(segment):
            new = f" {new}" if said else new
            said += new
            yield {"type": "transcript.text.delta", "delta": new}
    yield {"type": "transcript.text.done", "text": said, **_usage(heard)}
    yield "[DONE]"
