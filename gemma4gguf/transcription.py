"""Write down speech of any length: a fresh prompt for each window, and what is doubtful about its answer.

Sound comes in, and a model; segments with their times go out, in order, each as soon as it is written. Windows are
answered beside each other where the model has room for several answers. Does not know files or formats of subtitles.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypedDict

from typing_extensions import Unpack

from .arguments import one_of, real, whole
from .media.audio import SAMPLE_RATE, TRAINED_SECONDS, AudioInput, listen
from .media.speech import Window, detector, windows
from .records import Message, Result
from .runtime.asking import ChatOptions

Task: TypeAlias = Literal["transcribe", "translate"]
TOKENS_A_SECOND = 12  # of an answer at most; people speak four words
_MOST_SHARED = 12  # words that two windows may share
_ONLY = "Write only the words, without remarks."
_LOOP = re.compile(r"(.{2,80}?)\1{3,}\W*$", re.DOTALL)  # the same words four times at the end


class Model(Protocol):
    """What it takes of a model."""

    def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Result: ...


@dataclass(frozen=True)
class Segment:
    """What is said from `start` to `end`, in seconds. `doubt`: "empty" or "loop" where two tries gave no better."""

    start: float
    end: float
    text: str
    doubt: str = ""


class TranscribeOptions(TypedDict, total=False):
    """Keywords of `Gemma4.transcribe`; `transcribe` has the defaults."""

    language: str | None
    task: Task
    prompt: str | None
    hint: str | None
    carry: bool
    longest: float
    done: Sequence[Segment]
    on_progress: Callable[[float], None] | None


def transcribe(
    model: Model,
    audio: AudioInput,
    *,
    language: str | None = None,
    task: Task = "transcribe",
    prompt: str | None = None,
    hint: str | None = None,
    carry: bool = False,
    longest: float = TRAINED_SECONDS,
    done: Sequence[Segment] = (),
    on_progress: Callable[[float], None] | None = None,
    parallel: int = 1,
) -> Iterator[Segment]:
    """Write down what is said, segment by segment: speech between pauses, at most `longest` seconds each.

    `language`: what is spoken, such as "German"; None: the model hears it. `task`: "translate" writes English.
    `prompt`: the question in place of ours. `hint`: names and words that may be said. `carry`: each question tells the
    words before it. `done`: segments that an earlier call gave for the same sound and options; they are not made again.
    `on_progress`: told how many seconds are done. Silence takes no questions. Raises InputError without the extra
    `media`, and for unusable sound.
    """
    one_of("task", task, ("transcribe", "translate"))
    real("longest", longest, lambda v: 1 <= v <= TRAINED_SECONDS, f"1 to {TRAINED_SECONDS} seconds")
    whole("parallel", parallel, lambda v: v >= 1, "a whole number, at least 1")
    question, likely = prompt or question_for(task, language), detector()
    question += f"\nNames and words that may be said: {hint}" if hint else ""
    found = _answered(model, windows(listen(audio), likely, longest), question, carry, done, parallel)
    return _joined(found, done, on_progress)


def question_for(task: Task = "transcribe", language: str | None = None) -> str:
    """What each window is asked, for a language that is known or not."""
    if task == "translate":
        spoken = f" It is spoken in {language}." if language else ""
        return f"Translate what is said into English.{spoken} {_ONLY}"
    return f"Write down what is said, {f'in {language}' if language else 'in the language that is spoken'}. {_ONLY}"


def _answered(
    model: Model, cuts: Iterator[Window], question: str, carry: bool, done: Sequence[Segment], parallel: int
) -> Iterator[tuple[Window, str, str]]:
    """Windows with their answers and doubts, in order, without those that are done."""
    for _ in done:
        next(cuts, None)
    waiting: deque[tuple[Window, Future[tuple[str, str]]]] = deque()
    said = done[-1].text if done else ""
    with ThreadPoolExecutor(parallel, "transcribe") as pool:
        try:
            for window in cuts:
                asked = f"{question}\nBefore it was said: {said[-300:]}" if carry and said else question
                waiting.append((window, pool.submit(_written, model, window, asked)))
                if carry or len(waiting) > parallel:
                    first, answer = waiting.popleft()
                    text, doubt = answer.result()
                    said = text or said
                    yield first, text, doubt
            while waiting:
                first, answer = waiting.popleft()
                yield first, *answer.result()
        finally:
            for _, answer in waiting:
                answer.cancel()


def _written(model: Model, window: Window, question: str) -> tuple[str, str]:
    """What is said in a window, and what is doubtful about it. Tries again where the answer is empty or a loop."""
    sound = {"type": "audio", "audio": (window.samples, SAMPLE_RATE)}
    message = {"role": "user", "content": [sound, {"type": "text", "text": question}]}
    limit = 16 + int(TOKENS_A_SECOND * (window.end - window.start))
    result = model.chat([message], temperature=0, max_tokens=limit)
    if doubt_of(result):
        result = model.chat([message], temperature=0.4, seed=1, repetition_penalty=1.1, max_tokens=limit)
    return " ".join(result.text.split()), doubt_of(result)


def doubt_of(result: Result) -> str:
    """Why an answer is no transcript: "empty", "loop", or nothing."""
    if not result.text.strip():
        return "empty"
    return "loop" if _LOOP.search(result.text) else ""


def _joined(
    found: Iterator[tuple[Window, str, str]], done: Sequence[Segment], on_progress: Callable[[float], None] | None
) -> Iterator[Segment]:
    """Segments whose words are not said twice at a cut."""
    before = done[-1].text if done else ""
    for window, text, doubt in found:
        fresh = unshared(before, text) if window.cut else text
        before = text
        if on_progress:
            on_progress(window.end)
        yield Segment(round(window.start, 3), round(window.end, 3), fresh, doubt)


def unshared(before: str, text: str) -> str:
    """`text` without the words at its beginning with which `before` ends."""
    old, new = before.split(), text.split()
    for count in range(min(len(old), len(new), _MOST_SHARED), 0, -1):
        if [_plain(word) for word in old[-count:]] == [_plain(word) for word in new[:count]]:
            return " ".join(new[count:])
    return text


def _plain(word: str) -> str:
    return re.sub(r"\W", "", word).lower()
