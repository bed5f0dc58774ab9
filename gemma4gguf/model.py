"""`Gemma4`: a bundle opened for questions. Prompt, pictures and sound in; text, thought and tool calls out.

Joins messages and templates with the engine below. The weights load at the first question (or at `load`), so that a
wrong picture or a missing file is told before any work.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import NoReturn

from typing_extensions import Unpack

from .answers import SeveralAnswers
from .arguments import LONGEST, several, showing
from .bundle.finding import find_model
from .bundle.reading import EMBEDDER, Bundle
from .bundle.validation import check_text
from .chat.rendering import Prompt
from .conversation import Conversation, ConversationOptions, OpenedOptions
from .coroutines import Coroutines
from .errors import InputError
from .isolated.engine import IsolatedEngine
from .media.audio import AudioInput, Clips
from .media.rgb import Images
from .media.video import Videos
from .records import Chunk, Evaluation, Message, Result, Tokens
from .runtime.asking import GENERATE_OPTIONS, Chat, ChatOptions, Question, QuestionOptions, parted
from .runtime.composer import Composer
from .runtime.engine import TRAINED_FRAMES, Engine
from .runtime.hearing import Hearing
from .runtime.opening import Opening, OpenOptions
from .runtime.options import Options
from .runtime.parts import Parts
from .runtime.request import Request, last
from .runtime.room import settled
from .transcription import Segment, TranscribeOptions, transcribe


class Gemma4(Coroutines, SeveralAnswers):
    """A bundle, ready to answer from any thread. Close it, or use it in a `with` block.

    `path`: a file, or a name in the models folder. `context`: positions that prompt and answer may have together;
    None: as many as fit this machine's memory, up to 32,768; "max": as many as fit what is free of it now. `parallel`:
    answers that may be made at once; further ones wait in a queue. `cache_memory`: bytes for what is kept of
    conversations that had to make room. `cache_dir`: a folder in which long beginnings of prompts outlive the process,
    of at most `cache_disk` bytes. `threads`: one per physical core. `threads_batch`: those for several rows at once (a
    prompt, a check of drafts, several answers); None: as `threads`. `micro_batch`: rows of a prompt that are computed
    together, 1 to 4096; a picture is never divided. `repack`: copy matrices into the order that suits this processor
    best; False saves that memory. `gpu_layers`: a number, or auto (the default), as many as a GPU has room for.
    `kv_type`: f32, f16, bf16, q8_0, q4_0. `flash_attention`: auto, on, off. `image_tokens`: soft tokens a picture may
    take (70, 140, 280, 560, 1120). `draft`: tokens that a bundle's drafter proposes at a time, auto (as many as pay),
    off, or a number; it changes the speed, not the answer. `force`: open a bundle whose memory cannot fit.
    `isolate`: llama.cpp runs in a process of its own; where that ends, open answers raise NativeError, and the next
    question starts it again.
    Raises InputError, FormatError and MemoryLimitError at once, NativeError when the weights load.
    """

    @showing(Opening)
    def __init__(self, path: str | os.PathLike[str], **options: Unpack[OpenOptions]) -> None:
        opening = Opening(**options)
        self.bundle = Bundle.open(find_model(path))
        check_text(self.bundle.text)
        asked = opening.engine_options(self.bundle)
        self.image_tokens = asked.image_tokens
        make = IsolatedEngine if opening.isolate else Engine
        longest = opening.context == LONGEST
        self._parts = Parts(self.bundle, settled(self.bundle, asked, longest=longest, force=opening.force), make)
        self._composer = Composer(self._parts)

    # ── lifetime ─────────────────────────────────────────────────────────────────────────────────────────────────

    def load(self) -> None:
        """Load the weights and make the cache, if that has not happened yet."""
        _ = self._parts.engine

    @property
    def engine(self) -> Engine:
        """What is loaded, below messages and templates: for tests, benchmarks and scripts. Loads it where need be."""
        engine = self._parts.engine
        if not isinstance(engine, Engine):
            raise InputError("this model's engine is in a process of its own (isolate)")
        return engine

    def close(self) -> None:
        """Free everything, once whoever is at work has done a step. Using the model afterwards is an error."""
        self._parts.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Gemma4 cannot be pickled: give other processes its path, and open it in each process")

    def __enter__(self) -> Gemma4:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ── questions ────────────────────────────────────────────────────────────────────────────────────────────────

    @showing(Question, GENERATE_OPTIONS)
    def generate(self, prompt: str, **options: Unpack[QuestionOptions]) -> Result:
        """Answer one prompt: pictures and videos before the text, sound after it.

        `videos`: paths, bytes, open files, or a `Video` that says which frames are looked at. `raw`: the prompt as it
        is, without the chat template, with `<|image|>`, `<|audio|>` and `<|video|>` where media go.
        `on_progress` is told (positions read, of how many) while the prompt is read. `options`: see GenerateOptions.
        """
        return last(self.stream(prompt, **options))

    @showing(Question, GENERATE_OPTIONS)
    def stream(self, prompt: str, **options: Unpack[QuestionOptions]) -> Generator[Chunk, None, None]:
        """`generate`, piece by piece: whole characters; the last chunk has `finish_reason` and `result`."""
        return self._question(prompt, options).stream()

    @showing(Chat, GENERATE_OPTIONS)
    def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Result:
        """Answer a conversation; messages and tools as the OpenAI API has them. Options as for `generate`.

        Media in messages are bytes, data: URLs, arrays, pictures, open files. `local_files`: paths are opened too;
        only for messages whose author may read this machine's files. `on_full`: where messages and answer do not fit
        the context, "error" raises ContextError, "drop" leaves out the oldest whole turns, never the system's text or
        the tools, and `result.dropped_turns` says how many. An answer may need `max_tokens`, at most half of the
        context; by default an eighth. `continue_final_message`: the last message is the beginning of the answer, its
        thought or its words; the result is what follows.
        """
        return last(self.stream_chat(messages, **options))

    @showing(Chat, GENERATE_OPTIONS)
    def stream_chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Generator[Chunk, None, None]:
        """`chat`, piece by piece."""
        return self._chat(messages, options).stream()

    def evaluate(
        self, prompt: str, *, images: Images = (), audio: Clips = (), videos: Videos = (), raw: bool = False
    ) -> Evaluation:
        """Ids and logits at every position of a prompt, for scoring. Leaves the conversation's cache alone."""
        composed = self._composed(prompt, Question(images=images, audio=audio, videos=videos, raw=raw))
        return self._parts.engine.evaluate(composed.segments)

    @showing(Conversation)
    def conversation(self, **options: Unpack[ConversationOptions]) -> Conversation:
        """A chat that keeps its messages and media, and calls functions given as tools; see Conversation."""
        return Conversation(self, **options)

    @showing(Conversation.open)
    def open_conversation(self, path: str | os.PathLike[str], **options: Unpack[OpenedOptions]) -> Conversation:
        """A conversation that was saved; see Conversation.open."""
        return Conversation.open(self, path, **options)

    @showing(transcribe)
    def transcribe(self, audio: AudioInput, **options: Unpack[TranscribeOptions]) -> Iterator[Segment]:
        """Write down speech of any length, segment by segment, each with its times.

        `language`: what is spoken, such as "German"; None: the model hears it. `task`: "translate" writes English.
        `prompt`: the question in place of ours. `hint`: names and words that may be said. `carry`: each question tells
        the words before it. `longest`: seconds of a segment at most. `done`: segments that an earlier call gave; they
        are not made again. `on_progress`: told how many seconds are done. As many windows as the model was opened for
        (`parallel`) are answered together.
        """
        return transcribe(self, audio, **options, parallel=self._parts.options.context.sequences)

    # ── without weights ──────────────────────────────────────────────────────────────────────────────────────────

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text, as prompts have it: no BOS, and what looks like a special token stays text.

        Loads the vocabulary, no weights.
        """
        return self._composer.tokenize(text)

    def count_tokens(
        self,
        prompt: str | Sequence[Message],
        *,
        images: Images = (),
        audio: Clips = (),
        videos: Videos = (),
        system: str | None = None,
        tools: Sequence[Mapping[str, object]] | None = None,
        thinking: bool = False,
        raw: bool = False,
        local_files: bool = False,
        continue_final_message: bool = False,
    ) -> Tokens:
        """The positions that a prompt takes, and the soft tokens among them.

        A text counts as `generate` would ask it, with media, `system` and `raw`; messages as `chat` would, with
        `tools`, `local_files` and `continue_final_message`. Reads media; loads the vocabulary, no weights.
        """
        if isinstance(prompt, str):
            _unused("a text", tools=tools, local_files=local_files, continue_final_message=continue_final_message)
            asked = Question(images=images, audio=audio, videos=videos, system=system, thinking=thinking, raw=raw)
            return self._composer.count(self._composer.question(prompt, asked))
        _unused(
            "messages", images=several(images), audio=several(audio), videos=several(videos), system=system, raw=raw
        )
        chat = Chat(
            tools=tools,
            thinking=thinking,
            local_files=local_files,
            continue_final_message=continue_final_message,
        )
        return self._composer.count(self._composer.chat(prompt, chat))

    @property
    def context(self) -> int:
        """Positions that prompt and answer may have together."""
        return self._parts.options.context.context

    @property
    def template(self) -> str | None:
        """The bundle's own chat template; None where it has none, for gemma4gguf's."""
        return self._composer.template

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The vocabulary's control and user-defined tokens. Nobody's text becomes one of them."""
        return self._composer.special_tokens

    # ── the way there ────────────────────────────────────────────────────────────────────────────────────────────

    def _question(self, prompt: str, options: QuestionOptions) -> Request:
        """A question as it is asked, with all that can be wrong with it told."""
        asked, rest = parted(Question, options)
        checked, composed = Options.of(rest), self._composed(prompt, asked)
        return self._parts.engine.request(composed, checked, asked.on_progress)

    def _chat(self, messages: Sequence[Message], options: ChatOptions, place: Hearing | None = None) -> Request:
        """The same for messages, without the oldest turns where need be. `place`: where their sound was heard."""
        asked, rest = parted(Chat, options)
        checked = Options.of(rest)
        prompt, dropped = self._fitting(messages, asked, checked)
        return replace(self._parts.engine.request(prompt, checked, asked.on_progress, place), dropped=dropped)

    def _hear(self, messages: Sequence[Message], options: ChatOptions) -> Hearing | None:
        """Listen where the messages have their last clip; None where that would be too late, or has no room."""
        asked, rest = parted(Chat, options)
        sound = min(TRAINED_FRAMES, self._parts.options.context.context // 4)
        return self._parts.engine.hear(*self._fitting(messages, asked, Options.of(rest), sound))

    def _fitting(self, messages: Sequence[Message], asked: Chat, options: Options, more: int = 0) -> tuple[Prompt, int]:
        """The prompt of messages, and how many turns were left out of it. `more`: positions that are still to come."""
        frames = self._composer.frames()
        prompt = self._composer.chat(messages, asked, frames)
        self._composer.check_media(prompt)
        if asked.on_full != "drop":
            return prompt, 0
        self.load()  # turns are counted by its vocabulary, which need not load twice
        size = self._parts.options.context.context
        room = size - min(options.max_tokens or size // 8, size // 2) - more
        return self._composer.fitting_chat(messages, asked, room, frames)

    def _composed(self, prompt: str, asked: Question) -> Prompt:
        """A question as it is fed."""
        if several(asked.audio):  # it is put in order by a vocabulary, which need not load twice
            self.bundle.require(EMBEDDER)
            self.load()
        composed = self._composer.question(prompt, asked)
        self._composer.check_media(composed)
        return composed


def _unused(what: str, **given: object) -> None:
    """Raise InputError where something is given that `what` has no use for."""
    for name, value in given.items():
        if value:
            raise InputError(f"{name} is of no use with {what}; see count_tokens")
