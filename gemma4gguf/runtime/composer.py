"""From what callers ask to prompts that can be fed: composed, measured, and put in order where order matters.

In: texts, media and messages, and a bundle's template and vocabulary. Out: prompts and their sizes. Needs no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from ..arguments import several
from ..bundle.reading import EMBEDDER
from ..bundle.settings import special_tokens
from ..chat.begun import THOUGHT_OPEN
from ..chat.choice import chosen
from ..chat.messages import prepare_tools
from ..chat.rendering import (
    Frames,
    Prompt,
    TextSegment,
    compose,
    compose_turn,
    raw_segments,
)
from ..chat.turns import starts, without_oldest
from ..errors import InputError
from ..media.video import Video, VideoInput, as_video, sample, sound, stamp
from ..records import Message, Tokens
from .asking import Chat, Question
from .fitting import late_sound, media, reusing, turns_to_drop
from .parts import Parts
from .prompt import count, plain_ids, spans
from .session import Span


class Composer:
    """Makes prompts for one bundle."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._bundle = parts, parts.bundle

    @cached_property
    def template(self) -> str | None:
        """The bundle's own chat template; None where it has none, for gemma4gguf's."""
        own = self._bundle.text.metadata.get("tokenizer.chat_template")
        return own if isinstance(own, str) else None

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The vocabulary's control and user-defined tokens. Nobody's text becomes one of them."""
        return special_tokens(self._bundle.text.metadata)

    def question(self, prompt: str, asked: Question) -> Prompt:
        """One question: pictures, text, sound; or sound first, where it would begin too late. Or a prompt as it is."""
        pictures, clips, videos = several(asked.images), several(asked.audio), several(asked.videos)
        heard = [sound(video) for video in videos if isinstance(video, Video) and video.sound]
        frames = self.frames()
        if asked.raw:
            parts = raw_segments(prompt, pictures, [*clips, *heard], videos, frames)
            return Prompt(prompt, tuple(parts), prompt.endswith(THOUGHT_OPEN), may_think=True)

        def ordered(sound_first: bool) -> Prompt:
            given = pictures, [*clips, *heard], asked.system, asked.thinking, self.template, self.special_tokens
            return compose_turn(prompt, *given, videos=videos, frames=frames, sound_first=sound_first)

        usual = ordered(sound_first=False)
        if not clips and not heard:
            return usual
        prepared = self._spans(usual)
        read = media(prepared)
        if late_sound(prepared) is None:
            return reusing(usual, read)
        return reusing(ordered(sound_first=True), sorted(read, key=lambda span: not span.causal))

    def chat(self, messages: Sequence[Message], asked: Chat, frames: Frames | None = None) -> Prompt:
        """A conversation. `frames` reads its videos."""
        given = messages, asked.tools, asked.thinking, self.template
        prompt = compose(
            *given,
            local_files=asked.local_files,
            special_tokens=self.special_tokens,
            continue_final_message=asked.continue_final_message,
            frames=frames or self.frames(),
        )
        return replace(prompt, choice=chosen(asked.tool_choice, prepare_tools(asked.tools) or ()))

    def fitting_chat(self, messages: Sequence[Message], asked: Chat, room: int, frames: Frames) -> tuple[Prompt, int]:
        """A conversation in at most `room` positions, without its oldest turns where need be, and their number."""
        prompt = self.chat(messages, asked, frames)
        prepared = self._spans(prompt)
        read = media(prepared)

        def without(dropped: int) -> Prompt:
            return reusing(self.chat(without_oldest(messages, dropped), asked, frames), read)

        def size_without(dropped: int) -> int:
            return count(self._spans(without(dropped)) if dropped else prepared).prompt

        dropped = turns_to_drop(len(starts(messages)), size_without, room)
        return without(dropped) if dropped else reusing(prompt, read), dropped

    def count(self, prompt: Prompt) -> Tokens:
        """The positions of a prompt."""
        return count(self._spans(prompt))

    def tokenize(self, text: str) -> list[int]:
        """The ids of somebody's text: what looks like a special token is none."""
        vocabulary, _ = self._parts.reading()
        return plain_ids(vocabulary, text, self.special_tokens)

    def check_media(self, prompt: Prompt) -> None:
        """Raise MissingPartError where the bundle has no embedder for a prompt's media."""
        if any(not isinstance(part, TextSegment) for part in prompt.segments):
            self._bundle.require(EMBEDDER)

    def frames(self) -> Frames:
        """What reads the videos of one question, each once however often the question is composed."""
        return cache(self._frames)

    def _frames(self, video: VideoInput) -> list[tuple[str, NDArray[np.uint8]]]:
        """A video's frames and their times. Raises InputError where a frame does not fit one micro-batch."""
        wanted, most = as_video(video).frame_tokens, self._parts.options.context.micro_batch
        if wanted > most:
            raise InputError(f"frame_tokens is {wanted}, {most} is the most here; open it with image_tokens={wanted}")
        frames, times = sample(video)
        return [(stamp(time), frame) for time, frame in zip(times, frames, strict=True)]

    def _spans(self, prompt: Prompt) -> list[Span]:
        """A prompt as spans: media are read, and nothing is computed."""
        self.check_media(prompt)
        return spans(prompt.segments, *self._parts.reading(), self._parts.options.image_tokens)
