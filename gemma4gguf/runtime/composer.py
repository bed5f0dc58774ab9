"""From what callers ask to prompts that can be fed: composed, measured, and put in order where order matters.

In: texts, media and messages, and a bundle's template and vocabulary. Out: prompts and their sizes. Needs no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from ..arguments import several
from ..bundle.reading import EMBEDDER, Bundle
from ..bundle.settings import special_tokens
from ..chat.rendering import THOUGHT_OPEN, Prompt, TextSegment, compose, compose_turn, raw_segments, text_segments
from ..chat.turns import starts, without_oldest
from ..media.audio import Clips
from ..media.embedder import Embedder
from ..media.rgb import Images
from ..native.vocabulary import Vocabulary
from ..records import Message, Tokens
from .fitting import late_sound, media, reusing, turns_to_drop
from .prompt import count, ids_of, spans
from .session import Span

Parts = Callable[[], tuple[Vocabulary, Callable[[], Embedder]]]
"""Gives the vocabulary and the embedder, as loaded when it is called."""
Tools = Sequence[Mapping[str, object]] | None


class Composer:
    """Makes prompts for one bundle."""

    def __init__(self, bundle: Bundle, image_tokens: int) -> None:
        self._bundle, self._image_tokens = bundle, image_tokens

    @cached_property
    def template(self) -> str | None:
        """The bundle's own chat template; None where it has none, for gemma4gguf's."""
        own = self._bundle.text.metadata.get("tokenizer.chat_template")
        return own if isinstance(own, str) else None

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The vocabulary's control and user-defined tokens. Nobody's text becomes one of them."""
        return special_tokens(self._bundle.text.metadata)

    def raw(self, prompt: str, images: Images, audio: Clips) -> Prompt:
        """A prompt as it is, with media at its placeholders."""
        parts = raw_segments(prompt, several(images), several(audio))
        return Prompt(prompt, tuple(parts), prompt.endswith(THOUGHT_OPEN))

    def turn(
        self, parts: Parts, prompt: str, images: Images, audio: Clips, system: str | None, thinking: bool
    ) -> Prompt:
        """One question: pictures, text, sound; or sound first, where it would begin too late."""

        def ordered(sound_first: bool) -> Prompt:
            given = several(images), several(audio), system, thinking, self.template, self.special_tokens
            return compose_turn(prompt, *given, sound_first=sound_first)

        usual = ordered(sound_first=False)
        if not several(audio):
            return usual
        prepared = self._spans(parts, usual)
        read = media(prepared)
        if late_sound(prepared) is None:
            return reusing(usual, read)
        return reusing(ordered(sound_first=True), sorted(read, key=lambda span: not span.causal))

    def chat(self, messages: Sequence[Message], tools: Tools, thinking: bool, local_files: bool) -> Prompt:
        """A conversation."""
        template, special = self.template, self.special_tokens
        return compose(messages, tools, thinking, template, local_files=local_files, special_tokens=special)

    def fitting_chat(
        self, parts: Parts, messages: Sequence[Message], tools: Tools, thinking: bool, local_files: bool, room: int
    ) -> tuple[Prompt, int]:
        """A conversation in at most `room` positions, without its oldest turns where need be, and their number."""
        prompt = self.chat(messages, tools, thinking, local_files)
        prepared = self._spans(parts, prompt)
        read = media(prepared)

        def without(dropped: int) -> Prompt:
            return reusing(self.chat(without_oldest(messages, dropped), tools, thinking, local_files), read)

        def size_without(dropped: int) -> int:
            return count(self._spans(parts, without(dropped)) if dropped else prepared).prompt

        dropped = turns_to_drop(len(starts(messages)), size_without, room)
        return without(dropped) if dropped else reusing(prompt, read), dropped

    def count(self, parts: Parts, prompt: Prompt) -> Tokens:
        """The positions of a prompt."""
        return count(self._spans(parts, prompt))

    def tokenize(self, parts: Parts, text: str) -> list[int]:
        """The ids of somebody's text: what looks like a special token is none."""
        vocabulary, _ = parts()
        pieces = text_segments(text, self.special_tokens)
        return [token for piece in pieces for token in ids_of(vocabulary, piece)]

    def check_media(self, prompt: Prompt) -> None:
        """Raise MissingPartError where the bundle has no embedder for a prompt's media."""
        if any(not isinstance(part, TextSegment) for part in prompt.segments):
            self._bundle.require(EMBEDDER)

    def _spans(self, parts: Parts, prompt: Prompt) -> list[Span]:
        """A prompt as spans: media are read, and nothing is computed."""
        self.check_media(prompt)
        return spans(prompt.segments, *parts(), self._image_tokens)
