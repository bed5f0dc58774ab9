"""`Gemma4`: a bundle opened for questions. Prompt, pictures and sound in; text, thought and tool calls out.

Joins messages and templates with the engine below. The weights load at the first question (or at `load`), so that a
wrong picture or a missing file is told before any work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Literal, NoReturn, TypeAlias

from typing_extensions import Unpack

from .arguments import MOST_THREADS, one_of, several, whole
from .bundle.finding import find_model
from .bundle.reading import DRAFTER, EMBEDDER, Bundle
from .bundle.settings import image_budget, special_tokens
from .bundle.validation import check_text
from .chat.rendering import THOUGHT_OPEN, Prompt, TextSegment, compose, compose_turn, raw_segments
from .errors import InputError
from .media.audio import AudioInput
from .media.image import check_budget
from .media.rgb import ImageInput
from .native.context import FLASH_ATTENTION, KV_TYPES, ContextOptions
from .records import Chunk, Evaluation, Message, Result
from .runtime.engine import Engine, EngineOptions
from .runtime.options import GenerateOptions, Options
from .runtime.room import settled

DEFAULT_CACHE_MEMORY = 1 << 30  # bytes
MOST_PARALLEL = 16
MIN_MICRO_BATCH = 512  # rows that are computed together
MOST_DRAFTS = ContextOptions.outputs - 1  # tokens drafted in one step: they and the one before them need logits

Images: TypeAlias = ImageInput | Sequence[ImageInput] | None
Clips: TypeAlias = AudioInput | Sequence[AudioInput] | None
Progress: TypeAlias = Callable[[int, int], None]
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
        self._engine: Engine | None = None
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
        composed = self._raw(prompt, images, audio) if raw else self._turn(prompt, images, audio, system, thinking)
        return self._answer(composed, options, on_progress)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        thinking: bool = False,
        local_files: bool = False,
        on_progress: Progress | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Result:
        """Answer a conversation; messages and tools as the OpenAI API has them. Options as for `generate`.

        Media in messages are bytes, data: URLs, arrays, pictures, open files. `local_files`: paths are opened too;
        only for messages whose author may read this machine's files.
        """
        return _last(
            self.stream_chat(
                messages,
                tools=tools,
                thinking=thinking,
                local_files=local_files,
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
        on_progress: Progress | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Iterator[Chunk]:
        """`chat`, piece by piece."""
        return self._answer(self._chat(messages, tools, thinking, local_files), options, on_progress)

    def evaluate(self, prompt: str, *, images: Images = (), audio: Clips = (), raw: bool = False) -> Evaluation:
        """Ids and logits at every position of a prompt, for scoring. Leaves the conversation's cache alone."""
        composed = self._raw(prompt, images, audio) if raw else self._turn(prompt, images, audio, None, False)
        self._check_media(composed)
        return self.engine.evaluate(composed.segments)

    # ── the way there ────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def template(self) -> str | None:
        """The bundle's own chat template; None where it has none, for gemma4gguf's."""
        own = self.bundle.text.metadata.get("tokenizer.chat_template")
        return own if isinstance(own, str) else None

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The vocabulary's control and user-defined tokens. Nobody's text becomes one of them."""
        return special_tokens(self.bundle.text.metadata)

    def _turn(self, prompt: str, images: Images, audio: Clips, system: str | None, thinking: bool) -> Prompt:
        media = several(images), several(audio)
        return compose_turn(prompt, *media, system, thinking, self.template, self.special_tokens)

    def _chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]] | None,
        thinking: bool,
        local_files: bool,
    ) -> Prompt:
        template, special = self.template, self.special_tokens
        return compose(messages, tools, thinking, template, local_files=local_files, special_tokens=special)

    def _raw(self, prompt: str, images: Images, audio: Clips) -> Prompt:
        parts = raw_segments(prompt, several(images), several(audio))
        return Prompt(prompt, tuple(parts), prompt.endswith(THOUGHT_OPEN))

    def _answer(self, prompt: Prompt, given: GenerateOptions, on_progress: Progress | None) -> Iterator[Chunk]:
        """Everything that can be wrong is told here, before the first chunk is asked for."""
        options = Options.of(given)
        self._check_media(prompt)
        return self.engine.answer(prompt, options, on_progress)

    def _check_media(self, prompt: Prompt) -> None:
        if any(not isinstance(part, TextSegment) for part in prompt.segments):
            self.bundle.require(EMBEDDER)


def _last(chunks: Iterator[Chunk]) -> Result:
    *_, last = chunks
    assert last.result is not None
    return last.result
