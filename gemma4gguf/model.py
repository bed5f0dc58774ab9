"""`Gemma4`: a bundle opened for questions. Prompt, pictures and sound in; text, thought and tool calls out.

Joins messages and templates with the engine below. The weights load at the first question (or at `load`), so that a
wrong picture or a missing file is told before any work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Literal, NoReturn, TypeAlias

from typing_extensions import Unpack

from .arguments import MOST_THREADS, one_of, several, whole
from .bundle.finding import find_model
from .bundle.reading import DRAFTER, EMBEDDER, Bundle
from .bundle.settings import image_budget
from .bundle.validation import check_text
from .chat.rendering import Prompt
from .conversation import Allow, Conversation, OnFull, Progress, Tool
from .errors import InputError
from .media.audio import Clips
from .media.embedder import Embedder
from .media.image import check_budget
from .media.rgb import Images
from .native.context import FLASH_ATTENTION, KV_TYPES, ContextOptions
from .native.vocabulary import Vocabulary
from .native.weights import Weights
from .records import Chunk, Evaluation, Message, Result, Tokens
from .runtime.composer import Composer
from .runtime.engine import Engine, EngineOptions
from .runtime.loading import load
from .runtime.options import GenerateOptions, Options
from .runtime.room import settled

DEFAULT_CACHE_MEMORY = 1 << 30  # bytes
MOST_PARALLEL = 16
MIN_MICRO_BATCH = 512  # rows that are computed together
MOST_DRAFTS = ContextOptions.outputs - 1  # tokens drafted in one step: they and the one before them need logits

KVType: TypeAlias = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]


class Gemma4:
    """A bundle, ready to answer from any thread. Close it, or use it in a `with` block.

    `path`: a file, or a name in the models folder. `context`: positions that prompt and answer may have together;
    None: as many as fit this machine's memory, up to 32,768. `parallel`: answers that may be made at once; further
    ones wait in a queue. `cache_memory`: bytes for what is kept of conversations that had to make room. `threads`:
    one per physical core. `gpu_layers`: a number, or auto (the default), all of them where there is a GPU.
    `kv_type`: f32, f16, bf16, q8_0, q4_0. `flash_attention`: auto, on, off. `image_tokens`: soft tokens a picture
    may take (70, 140, 280, 560, 1120). `draft`: tokens that a bundle's drafter proposes at a time, auto (as many as
    pay), off, or a number; it changes the speed, not the answer. `force`: open a bundle whose memory cannot fit.
    Raises InputError, FormatError and MemoryLimitError at once, NativeError when the weights load.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        context: int | None = None,
        threads: int | None = None,
        gpu_layers: int | Literal["auto"] | None = None,
        kv_type: KVType = "f16",
        flash_attention: Literal["auto", "on", "off"] = "auto",
        image_tokens: int | None = None,
        draft: int | Literal["auto", "off"] = "auto",
        parallel: int = 1,
        cache_memory: int = DEFAULT_CACHE_MEMORY,
        debug: bool = False,
        force: bool = False,
    ) -> None:
        if draft not in ("auto", "off"):
            draft = whole("draft", draft, lambda v: 0 <= v <= MOST_DRAFTS, f"auto, off or a number up to {MOST_DRAFTS}")
        if gpu_layers in (None, "auto"):
            gpu_layers = -1
        gpu_layers = whole("gpu_layers", gpu_layers, lambda v: v >= -1, "auto or a whole number")
        one_of("kv_type", kv_type, tuple(KV_TYPES))
        one_of("flash_attention", flash_attention, tuple(FLASH_ATTENTION))
        if context is not None:
            context = whole("context", context, lambda v: v >= 1, "a whole number, at least 1")
        if threads is not None:
            threads = whole(
                "threads", threads, lambda v: 1 <= v <= MOST_THREADS, f"a whole number, 1 to {MOST_THREADS}"
            )
        parallel = whole("parallel", parallel, lambda v: 1 <= v <= MOST_PARALLEL, f"1 to {MOST_PARALLEL}")
        cache_memory = whole("cache_memory", cache_memory, lambda v: v >= 0, "bytes, at least 0")
        self.bundle = Bundle.open(find_model(path))
        check_text(self.bundle.text)
        metadata = self.bundle.text.metadata
        if image_tokens is None:
            image_tokens = image_budget(metadata)
        self.image_tokens: int = image_tokens
        check_budget(self.image_tokens)
        limit = metadata["gemma4.context_length"]
        if context is not None and context > limit:
            raise InputError(f"context is {context:,}, the model was made for at most {limit:,}")
        if draft not in ("auto", "off", 0):
            self.bundle.require(DRAFTER)
        micro_batch = max(MIN_MICRO_BATCH, self.image_tokens)  # a picture is one micro-batch, whatever the budget
        asked = EngineOptions(
            ContextOptions(
                context=context or 0,  # the longest that fits
                sequences=parallel,
                batch=micro_batch,
                micro_batch=micro_batch,
                outputs=ContextOptions.outputs * parallel,
                threads=threads,
                kv_type=kv_type,
                flash_attention=flash_attention,
            ),
            image_tokens=self.image_tokens,
            gpu_layers=gpu_layers,
            draft=0 if draft == "off" else draft,
            debug=debug,
            cache_memory=cache_memory,
        )
        self._options = settled(self.bundle, asked, force=force)
        self._composer = Composer(self.bundle, self.image_tokens)
        self._engine: Engine | None = None
        self._words: Weights | None = None  # a vocabulary without weights, where tokens are counted before loading
        self._opening = threading.Lock()  # held while the engine is made or freed
        self._closed = False

    # ── lifetime ─────────────────────────────────────────────────────────────────────────────────────────────────

    def load(self) -> None:
        """Load the weights and make the cache, if that has not happened yet."""
        _ = self.engine

    @property
    def engine(self) -> Engine:
        """What is loaded, below messages and templates: for tests, benchmarks and scripts. Loads it where need be."""
        with self._opening:
            if self._closed:
                raise InputError("this model is closed; open it again")
            if self._engine is None:
                self._engine = Engine(self.bundle, self._options)
            return self._engine

    def close(self) -> None:
        """Free everything, once whoever is at work has done a step. Using the model afterwards is an error."""
        with self._opening:
            self._closed = True
            if self._engine is not None:
                self._engine.close()
            self._engine = None
            if self._words is not None:
                self._words.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Gemma4 cannot be pickled: give other processes its path, and open it in each process")

    def __enter__(self) -> Gemma4:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ── questions ────────────────────────────────────────────────────────────────────────────────────────────────

    def generate(
        self,
        prompt: str,
        *,
        images: Images = (),
        audio: Clips = (),
        system: str | None = None,
        thinking: bool = False,
        raw: bool = False,
        on_progress: Progress | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Result:
        """Answer one prompt: pictures before the text, sound after it.

        `raw`: the prompt as it is, without the chat template, with `<|image|>` and `<|audio|>` where media go.
        `on_progress` is told (positions read, of how many) while the prompt is read. `options`: see GenerateOptions.
        """
        return _last(
            self.stream(
                prompt,
                images=images,
                audio=audio,
                system=system,
                thinking=thinking,
                raw=raw,
                on_progress=on_progress,
                **options,
            )
        )

    def stream(
        self,
        prompt: str,
        *,
        images: Images = (),
        audio: Clips = (),
        system: str | None = None,
        thinking: bool = False,
        raw: bool = False,
        on_progress: Progress | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Iterator[Chunk]:
        """`generate`, piece by piece: whole characters; the last chunk has `finish_reason` and `result`."""
        if raw and (system is not None or thinking):
            raise InputError("a raw prompt has no template for system or thinking; write them into the prompt")
        checked = Options.of(options)
        self._load_for(audio)
        composed = (
            self._composer.raw(prompt, images, audio)
            if raw
            else self._composer.turn(self._parts, prompt, images, audio, system, thinking)
        )
        return self._answer(composed, checked, on_progress)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        thinking: bool = False,
        local_files: bool = False,
        on_full: OnFull = "error",
        on_progress: Progress | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Result:
        """Answer a conversation; messages and tools as the OpenAI API has them. Options as for `generate`.

        Media in messages are bytes, data: URLs, arrays, pictures, open files. `local_files`: paths are opened too;
        only for messages whose author may read this machine's files. `on_full`: where messages and answer do not fit
        the context, "error" raises ContextError, "drop" leaves out the oldest whole turns, never the system's text or
        the tools, and `result.dropped_turns` says how many. An answer may need `max_tokens`, at most half of the
        context; by default an eighth.
        """
        return _last(
            self.stream_chat(
                messages,
                tools=tools,
                thinking=thinking,
                local_files=local_files,
                on_full=on_full,
                on_progress=on_progress,
                **options,
            )
        )

    def stream_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        thinking: bool = False,
        local_files: bool = False,
        on_full: OnFull = "error",
        on_progress: Progress | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Iterator[Chunk]:
        """`chat`, piece by piece."""
        one_of("on_full", on_full, ("error", "drop"))

        checked, given, dropped = Options.of(options), (messages, tools, thinking, local_files), 0
        prompt = self._composer.chat(*given)
        if on_full == "drop":
            self._composer.check_media(prompt)
            self.load()  # turns are counted by its vocabulary, which need not load twice
            size = self._options.context.context
            room = size - min(checked.max_tokens or size // 8, size // 2)
            prompt, dropped = self._composer.fitting_chat(self._parts, *given, room)
        return _telling(self._answer(prompt, checked, on_progress), dropped)

    def evaluate(self, prompt: str, *, images: Images = (), audio: Clips = (), raw: bool = False) -> Evaluation:
        """Ids and logits at every position of a prompt, for scoring. Leaves the conversation's cache alone."""
        self._load_for(audio)
        composed = (
            self._composer.raw(prompt, images, audio)
            if raw
            else self._composer.turn(self._parts, prompt, images, audio, None, False)
        )
        self._composer.check_media(composed)
        return self.engine.evaluate(composed.segments)

    def conversation(
        self,
        *,
        system: str | None = None,
        tools: Sequence[Tool] = (),
        thinking: bool = False,
        on_full: OnFull = "drop",
        most_calls: int = 8,
        allow: Allow | None = None,
    ) -> Conversation:
        """A chat that keeps its messages and media, and calls functions given as tools; see Conversation."""
        return Conversation(
            self,
            system=system,
            tools=tools,
            thinking=thinking,
            on_full=on_full,
            most_calls=most_calls,
            allow=allow,
        )

    # ── without weights ──────────────────────────────────────────────────────────────────────────────────────────

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text, as prompts have it: no BOS, and what looks like a special token stays text.

        Loads the vocabulary, no weights.
        """
        return self._composer.tokenize(self._parts, text)

    def count_tokens(
        self,
        prompt: str | Sequence[Message],
        *,
        images: Images = (),
        audio: Clips = (),
        system: str | None = None,
        tools: Sequence[Mapping[str, object]] | None = None,
        thinking: bool = False,
        raw: bool = False,
        local_files: bool = False,
    ) -> Tokens:
        """The positions that a prompt takes, and the soft tokens among them.

        A text counts as `generate` would ask it, with `images`, `audio`, `system` and `raw`; messages as `chat` would,
        with `tools` and `local_files`. Reads pictures and sound; loads the vocabulary, no weights.
        """
        if isinstance(prompt, str):
            _unused("a text", tools=tools, local_files=local_files)
            composed = (
                self._composer.raw(prompt, images, audio)
                if raw
                else self._composer.turn(self._parts, prompt, images, audio, system, thinking)
            )
        else:
            _unused("messages", images=several(images), audio=several(audio), system=system, raw=raw)
            composed = self._composer.chat(prompt, tools, thinking, local_files)
        return self._composer.count(self._parts, composed)

    # ── the way there ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def template(self) -> str | None:
        """The bundle's own chat template; None where it has none, for gemma4gguf's."""
        return self._composer.template

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The vocabulary's control and user-defined tokens. Nobody's text becomes one of them."""
        return self._composer.special_tokens

    def _answer(self, prompt: Prompt, options: Options, on_progress: Progress | None) -> Iterator[Chunk]:
        """Everything that can be wrong is told here, before the first chunk is asked for."""
        self._composer.check_media(prompt)
        return self.engine.answer(prompt, options, on_progress)

    def _load_for(self, audio: Clips) -> None:
        """Load before a question with sound is put in order: that takes a vocabulary, which need not load twice."""
        if several(audio):
            self.bundle.require(EMBEDDER)
            self.load()

    def _parts(self) -> tuple[Vocabulary, Callable[[], Embedder]]:
        """The vocabulary, of the engine or without weights, and the embedder."""
        with self._opening:
            if self._closed:
                raise InputError("this model is closed; open it again")
            engine = self._engine
            if engine is not None:
                return engine.weights.vocab, lambda: engine.embedder
            if self._words is None:
                self._words = load(self.bundle.text, vocab_only=True)
            return self._words.vocab, lambda: Embedder(self.bundle)


def _last(chunks: Iterator[Chunk]) -> Result:
    *_, last = chunks
    assert last.result is not None
    return last.result


def _telling(chunks: Iterator[Chunk], dropped: int) -> Iterator[Chunk]:
    """The chunks of an answer, whose result says how many turns went."""
    for chunk in chunks:
        yield replace(chunk, result=chunk.result and replace(chunk.result, dropped_turns=dropped))


def _unused(what: str, **given: object) -> None:
    """Raise InputError where something is given that `what` has no use for."""
    for name, value in given.items():
        if value:
            raise InputError(f"{name} is of no use with {what}; see count_tokens")
