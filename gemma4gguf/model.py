"""`Gemma4`: a bundle opened for questions. Prompt, pictures and sound in; text, thought and tool calls out.

Joins the stages and owns their lifetimes: bundle, embedder, native model, session. The weights load at the first
question (or at `load`), so that a wrong picture or a missing file is told before any work.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import listed, whole
from .bundle.reading import DRAFTER, EMBEDDER, Bundle
from .bundle.settings import image_budget
from .bundle.validation import check_text
from .chat.rendering import THOUGHT_OPEN, AudioSegment, ImageSegment, Prompt, Segment, compose, raw_segments
from .chat.reply import ReplyParser
from .chat.stream import Chunk, ReplyStream
from .errors import ContextError, FormatError, InputError, NativeError
from .media.audio import AudioInput
from .media.embedder import Embedder
from .media.image import ImageInput, check_budget
from .native.context import FLASH_ATTENTION, KV_TYPES, Context, ContextOptions
from .native.weights import Weights
from .runtime.answer import Rules, answer, room
from .runtime.decode import Drafts
from .runtime.drafter import Drafter
from .runtime.loading import load
from .runtime.options import Options
from .runtime.pace import Pace
from .runtime.prompt import spans
from .runtime.result import Result
from .runtime.session import Session, Span, evaluate, pieces

DEFAULT_CONTEXT = 8192  # positions
MIN_MICRO_BATCH = 512  # rows that are computed together
MOST_DRAFTS = ContextOptions.outputs - 1  # tokens drafted in one step: they and the one before them need logits


@dataclass(frozen=True)
class Evaluation:
    """A prompt's ids int32 [N] (the placeholder's at soft tokens) and logits float32 [N, vocabulary]."""

    ids: NDArray[np.int32]
    logits: NDArray[np.float32]


class Gemma4:
    """A bundle, ready to answer. Close it, or use it in a `with` block. One question at a time.

    `context`: positions that prompt and answer may have together. `threads`: one per physical core. `gpu_layers`: a
    number, or auto (the default), all of them where there is a GPU. `kv_type`: f32, f16, bf16, q8_0, q4_0.
    `flash_attention`: auto, on, off. `image_tokens`: soft tokens a picture may take (70, 140, 280, 560, 1120).
    `draft`: tokens that a bundle's drafter proposes at a time, auto (as many as pay), off, or a number; it changes the
    speed, not the answer. Raises InputError and FormatError at once, NativeError when the weights load.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        context: int | None = None,
        threads: int | None = None,
        gpu_layers: int | str | None = None,
        kv_type: str = "f16",
        flash_attention: str = "auto",
        image_tokens: int | None = None,
        draft: str | int = "auto",
        debug: bool = False,
    ) -> None:
        if draft not in ("auto", "off"):
            draft = whole("draft", draft, lambda v: 0 <= v <= MOST_DRAFTS, f"auto, off or a number up to {MOST_DRAFTS}")
        if gpu_layers in (None, "auto"):
            gpu_layers = -1
        gpu_layers = whole("gpu_layers", gpu_layers, lambda v: v >= -1, "auto or a whole number")
        for name, value, known in (
            ("kv_type", kv_type, KV_TYPES),
            ("flash_attention", flash_attention, FLASH_ATTENTION),
        ):
            if value not in known:
                raise InputError(f"{name} is {value!r}, expected one of {', '.join(known)}")
        if context is not None:
            context = whole("context", context, lambda v: v >= 1, "a whole number, at least 1")
        if threads is not None:
            threads = whole("threads", threads, lambda v: v >= 1, "a whole number, at least 1")
        self.bundle = Bundle.open(path)
        check_text(self.bundle.text)
        metadata = self.bundle.text.metadata
        if image_tokens is None:
            image_tokens = image_budget(metadata)
        self.image_tokens: int = image_tokens
        check_budget(self.image_tokens)
        limit = metadata["gemma4.context_length"]
        if context is not None and context > limit:
            raise InputError(f"context is {context:,}, the model was made for at most {limit:,}")
        micro_batch = max(MIN_MICRO_BATCH, self.image_tokens)  # a picture is one micro-batch, whatever the budget
        self._context_options = ContextOptions(
            context=context or min(DEFAULT_CONTEXT, limit),
            batch=micro_batch,
            micro_batch=micro_batch,
            threads=threads,
            kv_type=kv_type,
            flash_attention=flash_attention,
        )
        self._gpu_layers, self._debug = gpu_layers, debug
        self._draft = 0 if draft == "off" else draft
        if isinstance(self._draft, int) and self._draft > 0:
            self.bundle.require(DRAFTER)
        self._drafter: Drafter | None = None
        self._pace = Pace()
        self._model: Weights | None = None
        self._session: Session | None = None
        self._scorer: Session | None = None
        self._load_s = 0.0
        self._opening = threading.Lock()  # held while anything native is made or freed
        self._closed = False

    # ── lifetime ─────────────────────────────────────────────────────────────────────────────────────────────────

    def load(self) -> None:
        """Load the weights and make the cache, if that has not happened yet."""
        self._ready()

    def close(self) -> None:
        """Free everything, once whoever is at work has done a step. Using the model afterwards is an error."""
        with self._opening:
            self._closed = True
            sessions = [session for session in (self._scorer, self._session) if session]
            for session in sessions:
                session.close()
            for owned in (self._drafter, *(session.context for session in sessions), self._model):
                if owned:
                    owned.close()
            self._scorer = self._drafter = self._session = self._model = None

    def __enter__(self) -> Gemma4:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ready(self) -> tuple[Weights, Session]:
        with self._opening:
            if self._closed:
                raise InputError("this model is closed; open it again")
            if self._model is None or self._session is None:
                started = time.perf_counter()
                with ExitStack() as undo:  # a part that cannot be made takes the others with it
                    model = undo.enter_context(load(self.bundle.text, gpu_layers=self._gpu_layers, debug=self._debug))
                    context = undo.enter_context(Context(model, self._context_options, hidden=bool(self._draft)))
                    if self._draft:
                        self._load_drafter(context)
                    undo.pop_all()
                self._model, self._session = model, Session(context)
                self._load_s = time.perf_counter() - started
            return self._model, self._session

    def _scoring(self, model: Weights) -> Session:
        """A cache of its own, which gives logits at every position."""
        with self._opening:
            if self._scorer is None:
                options = replace(self._context_options, outputs=self._context_options.batch)
                self._scorer = Session(Context(model, options))
            return self._scorer

    def _load_drafter(self, context: Context) -> None:
        """Where drafts are no more than welcome, whatever hinders them is a warning."""
        section = self.bundle.section(DRAFTER)
        if section is None:
            return
        try:
            self._drafter = Drafter(section, self.bundle.text, context, gpu_layers=self._gpu_layers)
        except (FormatError, NativeError) as error:
            if self._draft != "auto":
                raise
            warnings.warn(f"decoding goes on without drafts: {error}", stacklevel=2)
            return
        fixed = self._draft if isinstance(self._draft, int) else None
        self._pace = Pace(fixed, ratio=section.size / self.bundle.text.size)

    # ── questions ────────────────────────────────────────────────────────────────────────────────────────────────

    def generate(
        self,
        prompt: str,
        *,
        images: Sequence[ImageInput] = (),
        audio: Sequence[AudioInput] = (),
        system: str | None = None,
        thinking: bool = False,
        raw: bool = False,
        **how: Any,
    ) -> Result:
        """Answer one prompt: pictures before the text, sound after it. `how`: see `answer.Options`.

        `raw`: the prompt as it is, without the chat template, with `<|image|>` and `<|audio|>` where media go.
        """
        return _last(self.stream(prompt, images=images, audio=audio, system=system, thinking=thinking, raw=raw, **how))

    def stream(
        self,
        prompt: str,
        *,
        images: Sequence[ImageInput] = (),
        audio: Sequence[AudioInput] = (),
        system: str | None = None,
        thinking: bool = False,
        raw: bool = False,
        **how: Any,
    ) -> Iterator[Chunk]:
        """`generate`, piece by piece: whole characters; the last chunk has `finish_reason` and `result`."""
        if not raw:
            return self.stream_chat(_one_turn(prompt, images, audio, system), thinking=thinking, **how)
        if system is not None or thinking:
            raise InputError("a raw prompt has no template for system or thinking; write them into the prompt")
        parts = raw_segments(prompt, listed("images", images), listed("audio", audio))
        return self._answer(Prompt(prompt, tuple(parts), prompt.endswith(THOUGHT_OPEN)), how)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
        **how: Any,
    ) -> Result:
        """Answer a conversation; messages and tools as the OpenAI API has them. `how`: see `answer.Options`."""
        return _last(self.stream_chat(messages, tools=tools, thinking=thinking, **how))

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
        **how: Any,
    ) -> Iterator[Chunk]:
        """`chat`, piece by piece."""
        return self._answer(compose(messages, tools, thinking, self.template), how)

    def evaluate(
        self,
        prompt: str,
        *,
        images: Sequence[ImageInput] = (),
        audio: Sequence[AudioInput] = (),
        raw: bool = False,
    ) -> Evaluation:
        """Ids and logits at every position of a prompt, for scoring. Leaves the conversation's cache alone."""
        if raw:
            parts: Sequence[Segment] = raw_segments(prompt, listed("images", images), listed("audio", audio))
        else:
            parts = compose(_one_turn(prompt, images, audio, None), template=self.template).segments
        model, _ = self._ready()
        prepared = self._spans(parts, model)
        total, held = sum(map(len, prepared)), self._context_options.context
        if total > held:
            raise ContextError(f"the prompt has {total:,} tokens and the context holds {held:,}; ask for a larger one")
        logits = np.empty((total, model.vocab.size), np.float32)
        scorer, start = self._scoring(model), 0
        with scorer.alone():
            context = scorer.context
            context.clear()
            for span, part in pieces(prepared, context.options.batch):
                rows = part.stop - part.start
                evaluate(context, span, part, start=start, outputs=rows)
                for i in range(rows):
                    logits[start + i] = context.logits(i)
                start += rows
        return Evaluation(np.fromiter((i for span in prepared for i in span.ids), np.int32, total), logits)

    # ── the way there ────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def template(self) -> str | None:
        """The bundle's own chat template; None where it has none, for gemma4gguf's."""
        own = self.bundle.text.metadata.get("tokenizer.chat_template")
        return own if isinstance(own, str) else None

    @cached_property
    def embedder(self) -> Embedder:
        return Embedder(self.bundle)

    def _answer(self, prompt: Prompt, given: Mapping[str, Any]) -> Iterator[Chunk]:
        """Everything that can be wrong is told here, before the first chunk is asked for."""
        how, metadata = Options.of(given), self.bundle.text.metadata
        stream = ReplyStream(how.stop or (), ReplyParser(prompt.thinking_open))
        self._check_media(prompt.segments)
        model, session = self._ready()
        started = time.perf_counter()
        prepared = self._spans(prompt.segments, model)
        limit = min(how.max_tokens or session.context.size, room(session, prepared))
        rules = Rules.of(model.vocab, metadata)
        sampling = how.sampling(metadata)
        drafts = Drafts(self._drafter, self._pace) if self._drafter else None
        load_s, self._load_s = self._load_s, 0.0
        prepare_s = time.perf_counter() - started
        return answer(
            session,
            model.vocab,
            rules,
            prepared,
            sampling,
            limit,
            stream=stream,
            drafts=drafts,
            load_s=load_s,
            prepare_s=prepare_s,
        )

    def _spans(self, parts: Sequence[Segment], model: Weights) -> list[Span]:
        self._check_media(parts)
        return spans(parts, model.vocab, lambda: self.embedder, self.image_tokens)

    def _check_media(self, parts: Sequence[Segment]) -> None:
        if (
            any(isinstance(part, (ImageSegment, AudioSegment)) for part in parts)
            and self.bundle.section(EMBEDDER) is None
        ):
            raise InputError(f"{self.bundle.path}: {self.bundle.absence(EMBEDDER)}, so it takes no pictures or sound")


def _one_turn(
    prompt: str, images: Sequence[ImageInput], audio: Sequence[AudioInput], system: str | None
) -> list[dict[str, Any]]:
    """A conversation of one question, media where the model card advises: pictures, text, sound."""
    content = [
        *({"type": "image", "image": image} for image in listed("images", images)),
        {"type": "text", "text": prompt},
        *({"type": "audio", "audio": clip} for clip in listed("audio", audio)),
    ]
    head = [] if system is None else [{"role": "system", "content": system}]
    return [*head, {"role": "user", "content": content}]


def _last(chunks: Iterator[Chunk]) -> Result:
    *_, last = chunks
    result: Result = last.result
    return result
