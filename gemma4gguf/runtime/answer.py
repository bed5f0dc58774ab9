"""One answer: options in, chunks out, and at the end a result with its counts and times.

In: a session and a prompt's spans. Out: work for the scheduler; whole characters as they become certain, thought and
text apart, tool calls whole. Joins prefill, decoding, detokenising, stop strings and reply parsing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..bundle.settings import end_token_ids
from ..chat.reply import CALL, CHANNEL, CHANNEL_END, ReplyParser
from ..chat.stream import ReplyStream
from ..errors import ContextError
from ..native.sampler import Sampler, SamplingOptions
from ..native.vocabulary import Vocabulary
from ..records import Chunk, DraftCounts, FinishReason, Result, Timings
from .chooser import Chooser
from .decode import Drafts, decoding
from .form import Form
from .logprobs import LogprobNotes
from .options import Options
from .prompt import PLACEHOLDERS, count, find_token, token_id
from .session import Session, Span, Step, Work
from .thought import ThoughtTracker

# Control tokens that the reply parser reads; every other one stays invisible.
VISIBLE = (
    *("<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>"),
    *('<|"|>', "<|think|>", "<|channel>", "<channel|>"),
)


@dataclass(frozen=True)
class Reading:
    """A prompt is being read: positions held, of how many."""

    done: int
    total: int


@dataclass(frozen=True)
class Rules:
    """What a model's vocabulary and file say about every answer: ids that end it, never appear, or show as marks.

    `thought_marks`: ids that begin and end a thought, `call_mark`: that begins a call.
    """

    end: frozenset[int]
    suppressed: frozenset[int]
    visible: frozenset[int]
    thought_marks: tuple[int, int]
    call_mark: int

    @classmethod
    def of(cls, vocab: Vocabulary, metadata: Mapping[str, Any]) -> Rules:
        """From a model's vocabulary and its file's metadata."""
        placeholders = [token_id(vocab, text) for text in PLACEHOLDERS]
        return cls(
            end=frozenset(end_token_ids(metadata, partial(find_token, vocab))),
            suppressed=frozenset([*vocab.suppressed(), *placeholders]),
            visible=frozenset(token_id(vocab, text) for text in VISIBLE),
            thought_marks=(token_id(vocab, CHANNEL), token_id(vocab, CHANNEL_END)),
            call_mark=token_id(vocab, CALL),
        )

    @property
    def without_calls(self) -> Rules:
        """The same for an answer that may not call tools."""
        return replace(self, suppressed=self.suppressed | {self.call_mark})


def answer(
    session: Session,
    vocab: Vocabulary,
    rules: Rules,
    spans: Sequence[Span],
    options: Options,
    sampling: SamplingOptions,
    limit: int,
    *,
    thinking_open: bool,
    thought_begun: bool,
    form: Callable[[ThoughtTracker], Form] | None = None,
    drafts: Drafts | None = None,
    load_s: float = 0.0,
    prepare_s: float = 0.0,
) -> Iterator[Work | Reading | Chunk]:
    """Answer a prompt with at most `limit` tokens, which must fit (see `room`).

    Yields work, to be evaluated before the next item, and what whoever asked is to be told. The last chunk has a finish
    reason and the result. `thinking_open`, `thought_begun`: see `Prompt`. `form`: what the answer must look like, made
    for the tracker that follows it. `load_s` and `prepare_s`: seconds that went before, the latter part of the time to
    the first token.
    """
    begun = time.perf_counter()
    used, reading = count(spans), session.feeding(spans, limit)
    while True:
        try:
            piece = next(reading)
        except StopIteration as done:
            tokens = replace(used, reused=done.value)
            break
        yield Reading(session.length, used.prompt)
        yield piece
    yield Reading(session.length, used.prompt)
    fed = time.perf_counter()
    first = 0.0
    reason: FinishReason = "length"
    chunks: list[Chunk] = []
    completion = 0
    stream = ReplyStream(options.stop or (), ReplyParser(thinking_open, thought_begun=thought_begun))

    def shown(token: int) -> bytes:
        return vocab.piece(token, special=token in rules.visible)

    tracker = ThoughtTracker(shown, thinking_open) if form or options.max_thinking_tokens is not None else None
    notes = None
    if options.logprobs:
        whole = partial(vocab.piece, special=True)
        notes = LogprobNotes(options.top_logprobs or 0, whole, sampled=options.logprobs == "sampled")
    history = [i for span in spans for i in span.ids] if sampling.repetition_penalty != 1 else ()
    with Sampler(sampling, rules.suppressed, history, limit) as sampler:
        chooser = Chooser(
            sampler,
            tracker,
            notes,
            form(tracker) if form and tracker else None,
            most_thought=options.max_thinking_tokens,
            thought_marks=rules.thought_marks,
        )
        for item in decoding(session, chooser, rules.end, limit, drafts):
            if isinstance(item, Step):
                yield item
                continue
            first = first or time.perf_counter()
            for token in item:
                completion += 1
                if token in rules.end:
                    reason = "stop"
                    break
                new = stream.feed(shown(token))
                new = notes.told(new, completion) if notes else new
                chunks += new
                yield from new
                if stream.stopped:
                    reason = "stop"
                    break
            if reason == "stop":
                break
    decode_s = time.perf_counter() - first
    new = stream.finish(reason)
    *new, last = notes.told(new, completion) if notes else new
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
        draft=drafts.counts() if drafts else DraftCounts(),
        unreadable_calls=stream.unreadable_calls,
        logprobs=notes.first(completion) if notes else (),
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
        "ask for a larger one (context=N) or shorten the prompt"
    )
