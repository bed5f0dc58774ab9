"""One answer: options in, chunks out, and at the end a result with its counts and times.

In: a session and a prompt's spans. Out: whole characters as they become certain, thought and text apart, tool calls
whole. Joins prefill, decoding, detokenising, stop strings and reply parsing; each is a module of its own.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..arguments import real, whole
from ..chat.reply import ToolCall
from ..chat.stream import Chunk, ReplyStream
from ..errors import ContextError, InputError
from ..native.sampler import Sampler, Sampling
from ..native.weights import Vocabulary
from .decode import Drafts, decode
from .prompt import PLACEHOLDERS, Tokens, count, token_id
from .session import Session, Span

END_TOKENS = ("<eos>", "<turn|>", "<|tool_response>")  # where a file does not list its own
# Control tokens that the reply parser reads; every other one stays invisible.
VISIBLE = (
    *("<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>"),
    *('<|"|>', "<|think|>", "<|channel>", "<channel|>"),
)
# What the model card recommends, where a file does not say.
SAMPLING = {"temperature": ("temp", 1.0), "top_k": ("top_k", 64), "top_p": ("top_p", 0.95)}


@dataclass(frozen=True)
class Options:
    """How one answer is made. None: what the model's own generation config says.

    `max_tokens` None: until the context is full. `temperature` 0: greedy. `seed` None: a new one, told in the result.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float = 0.0
    seed: int | None = None
    stop: Sequence[str] | str | None = ()

    def __post_init__(self) -> None:
        limits: list[tuple[str, Callable[..., float], Callable[[float], bool], str]] = [
            ("max_tokens", whole, lambda v: v >= 1, "a whole number, at least 1"),
            ("temperature", real, lambda v: 0 <= v < float("inf"), "0 (greedy) or more"),
            ("top_k", whole, lambda v: 0 <= v < 1 << 31, "a whole number, 0 (off) to 2147483647"),
            ("top_p", real, lambda v: 0 < v <= 1, "above 0, at most 1"),
            ("min_p", real, lambda v: 0 <= v <= 1, "0 to 1"),
            ("seed", whole, lambda v: 0 <= v < 1 << 32, "a whole number, 0 to 4294967295"),
        ]
        for name, number, allowed, expected in limits:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, number(name, value, allowed, expected))
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        if not isinstance(stop, (list, tuple)):
            raise InputError(f"stop is {stop!r}, expected a text or a list of texts")
        object.__setattr__(self, "stop", tuple(stop))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Options by name; an unknown name is an error that lists the known ones."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InputError(f"unknown option {', '.join(unknown)}; the options are {', '.join(known)}")
        return cls(**given)

    def sampling(self, metadata: Mapping[str, Any]) -> Sampling:
        """What is chosen here, else in a file's generation config, else by the model card; a seed in any case."""
        chosen = {name: getattr(self, name) for name in SAMPLING}
        for name, (key, neutral) in SAMPLING.items():
            if chosen[name] is None:
                chosen[name] = metadata.get(f"general.sampling.{key}", neutral)
        seed = secrets.randbits(32) if self.seed is None else self.seed
        return Sampling(**chosen, min_p=self.min_p, seed=seed)


@dataclass(frozen=True)
class Timings:
    """Seconds of each stage, and the answer's tokens per second of decoding.

    `load_s`: of the weights, in the answer that had to wait for them. `time_to_first_token_s`: from the question, its
    pictures and sound included, loading and whatever the caller did not counted.
    """

    load_s: float = 0.0
    prefill_s: float = 0.0
    time_to_first_token_s: float = 0.0
    decode_s: float = 0.0
    tokens_per_s: float = 0.0


@dataclass(frozen=True)
class Result:
    """A whole answer. `finish_reason`: stop, length or tool_calls. `seed` repeats it.

    `draft`: steps, proposed, accepted; where there was a drafter also what `decode.Drafts.report` says.
    """

    text: str
    thought: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    tokens: Tokens
    timings: Timings
    seed: int
    draft: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rules:
    """What a model's vocabulary and file say about every answer: ids that end it, never appear, or show as marks."""

    end: frozenset[int]
    suppressed: frozenset[int]
    visible: frozenset[int]

    @classmethod
    def of(cls, vocab: Vocabulary, metadata: Mapping[str, Any]) -> Rules:
        """From a model's vocabulary and its file's metadata."""
        listed = metadata.get("gemma4gguf.eos_token_ids") or [token_id(vocab, text) for text in END_TOKENS]
        placeholders = [token_id(vocab, text) for text in PLACEHOLDERS]
        return cls(
            end=frozenset(int(i) for i in listed),
            suppressed=frozenset([*vocab.suppressed(), *placeholders]),
            visible=frozenset(token_id(vocab, text) for text in VISIBLE),
        )


def answer(
    session: Session,
    vocab: Vocabulary,
    rules: Rules,
    spans: Sequence[Span],
    sampling: Sampling,
    limit: int,
    *,
    stream: ReplyStream,
    drafts: Drafts | None = None,
    load_s: float = 0.0,
    prepare_s: float = 0.0,
) -> Iterator[Chunk]:
    """Answer a prompt with at most `limit` tokens, which must fit (see `room`). `stream` takes the reply apart.

    The last chunk has a finish reason and the result. A generator that is left early stops cleanly. `load_s` and
    `prepare_s`: seconds that went before, the latter part of the time to the first token.
    """
    begun = time.perf_counter()
    tokens = replace(count(spans), reused=session.feed(spans))
    fed = time.perf_counter()
    first = away = 0.0
    turn = session.turn
    reason = "length"
    chunks: list[Chunk] = []
    completion = 0
    with Sampler(sampling, rules.suppressed) as sampler:
        for token in decode(session, sampler, rules.end, limit, drafts):
            completion += 1
            first = first or time.perf_counter()
            if token in rules.end:
                reason = "stop"
                break
            with session.alone(turn):  # a drafted token was made in an earlier step: the model may be closed by now
                piece = vocab.piece(token, special=token in rules.visible)
            new = stream.feed(piece)
            chunks += new
            paused = time.perf_counter()
            yield from new
            away += time.perf_counter() - paused  # what the caller does with a chunk is not our time
            if stream.stopped:
                reason = "stop"
                break
    decode_s = time.perf_counter() - first - away
    *new, last = stream.finish(reason)
    yield from new
    chunks += [*new, last]
    timings = Timings(
        load_s=load_s,
        prefill_s=fed - begun,
        time_to_first_token_s=prepare_s + first - begun,
        decode_s=decode_s,
        tokens_per_s=(completion - 1) / decode_s if completion > 1 and decode_s > 0 else 0.0,
    )
    result = Result(
        text="".join(chunk.text for chunk in chunks),
        thought="".join(chunk.thought for chunk in chunks),
        tool_calls=tuple(call for chunk in chunks for call in chunk.tool_calls),
        finish_reason=last.finish_reason or reason,
        tokens=replace(tokens, completion=completion),
        timings=timings,
        seed=sampling.seed,
        draft=drafts.report() if drafts else {"steps": 0, "proposed": 0, "accepted": 0},
    )
    yield replace(last, result=result)


def room(session: Session, spans: Sequence[Span]) -> int:
    """Positions left for an answer. Raises ContextError where there are none."""
    used, size = count(spans), session.context.size
    if used.prompt < size:
        return size - used.prompt
    media = f" ({used.image:,} of pictures, {used.audio:,} of sound)" if used.image or used.audio else ""
    raise ContextError(
        f"the prompt has {used.prompt:,} tokens{media} and the context holds {size:,}; "
        "ask for a larger one (context=, --context) or shorten the prompt"
    )
