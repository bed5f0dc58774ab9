"""Messages -> rendered prompt -> segments of text and media. (The way back, from what the model wrote, is `reply`.)

In: messages and tools as the OpenAI API has them (or a raw prompt) and a chat template. Out: what is to be tokenised
and what is to be embedded, in order. Knows no token ids and loads no media.

**Nobody's text becomes a special token.** A user, a tool or a web page may write `<turn|>` or `<|image|>`; the
reference tokenises that as if the template had written it. Here it stays text:

1. before rendering, each look-alike in anybody's text (and an end that could become one when the template joins
   texts) gets a *guard* behind its first character: one character that occurs nowhere in the messages. Templates carry
   it along like any other;
2. in the rendered prompt every special token without a guard is the template's. Where a guard stands inside what would
   otherwise be read as a special token, the text is cut there into two segments; all other guards just go.

So segments are cut in `<` + `|turn>` and tokenised apart, and no tokeniser can see a special token in them. This also
holds in llama.cpp, which reads `<|tool_call>`, `<|"|>` and four more even with parse_special off. Text without
look-alikes is never cut, so that its ids are the reference's. In an assistant's content the channel marks stay what
they are: the template strips the thoughts between them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..arguments import shown
from ..errors import InputError
from .begun import THOUGHT_OPEN, taken_out, with_beginning
from .choice import FREE, Choice
from .guards import free_character, guards
from .messages import Media, payload, prepare_messages, prepare_options, prepare_tools, prepare_turn
from .reply import CHANNEL, CHANNEL_END
from .template import render_template

_CHANNEL_MARK = re.compile(f"({re.escape(CHANNEL)}|{re.escape(CHANNEL_END)})")
_PLACEHOLDER = re.compile(r"<\|(image|audio|video)\|>")
_TURN_END = "<turn|>\n"


@dataclass(frozen=True)
class TextSegment:
    """To be tokenised by itself, special tokens parsed, no BOS added. Two neighbours are two calls of the tokeniser."""

    text: str


@dataclass(frozen=True)
class ImageSegment:
    """Where a picture's soft tokens go. The begin and end tokens are in the texts around it."""

    medium: Any


@dataclass(frozen=True)
class AudioSegment:
    """Where a clip's soft tokens go. The begin and end tokens are in the texts around it."""

    medium: Any


@dataclass(frozen=True)
class FrameSegment:
    """Where a frame of a video has its soft tokens. Its time, and the tokens of a picture, are in the texts around."""

    medium: Any


MediaSegment = ImageSegment | AudioSegment | FrameSegment
Segment = TextSegment | MediaSegment
_MEDIA: dict[str, Callable[[Any], MediaSegment]] = {"image": ImageSegment, "audio": AudioSegment}
Frames = Callable[[Any], Sequence[tuple[str, Any]]]
"""What a video becomes: for each frame its time as a text, and the frame."""


@dataclass(frozen=True)
class Prompt:
    """A chat, ready to be fed.

    `text`: as the reference renders it. `thinking_open`: the reply begins inside a thought; `thought_begun`: and the
    prompt holds words of it already. `may_think`: it may begin with a thought. `words`: of the answer, that the prompt
    holds already. `choice`: of the tools that it may call.
    """

    text: str
    segments: tuple[Segment, ...]
    thinking_open: bool
    thought_begun: bool = False
    may_think: bool = False
    words: str = ""
    choice: Choice = FREE


@lru_cache(maxsize=1)
def default_template() -> str:
    """The template for checkpoints that carry none: Gemma 4's layout, our own text."""
    return Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")


def render(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinking: bool = False,
    template: str | None = None,
    add_generation_prompt: bool = True,
    **template_options: Any,
) -> str:
    """The prompt that a chat template makes of messages, as the reference renders it; media as `<|image|>` and
    `<|audio|>`.

    `template`: its source, a bundle's own; None for `default_template()`. `template_options`: further names that the
    template knows, `preserve_thinking=True` for instance. Raises InputError for messages that are none, FormatError
    for a bad template.
    """
    prepared, _ = prepare_messages(messages, need_media=False)
    return _render(prepared, prepare_tools(tools), thinking, template, add_generation_prompt, template_options)


def compose(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinking: bool = False,
    template: str | None = None,
    add_generation_prompt: bool = True,
    *,
    local_files: bool = True,
    special_tokens: tuple[str, ...] = (),
    continue_final_message: bool = False,
    frames: Frames | None = None,
    **template_options: Any,
) -> Prompt:
    """Messages to a prompt that can be fed: checked, guarded, rendered and cut into segments.

    Parameters as for `render`; `local_files` False refuses paths to media, for messages from a network;
    `special_tokens` are a vocabulary's own, which nobody's text may become, besides Gemma 4's; `frames` reads videos.
    An assistant's message at the end is refused where a generation prompt is asked for (the template would begin a new
    turn), unless `continue_final_message`: then the model's turn is opened as for a new answer, and begins with that
    message's thought and words. One departure from the reference: where the template leaves the prompt behind the end
    of a turn (it does after words beside an answered tool call), the model's turn is opened as after a user's message,
    so that there is something to go on from.
    """
    prepared, media = prepare_messages(messages, local_files=local_files)
    begun = taken_out(prepared) if continue_final_message else None
    last = prepared[-1]
    if add_generation_prompt and last["role"] == "assistant" and not last.get("tool_calls"):
        raise InputError(
            f"messages[{len(prepared) - 1}]: the last message is the assistant's; leave it out, append a user message, "
            "or have it continued (continue_final_message=True)"
        )
    arguments = (prepare_tools(tools), thinking, template, add_generation_prompt, special_tokens, template_options)
    return _composed(prepared, media, *arguments, begun, frames)


def compose_turn(
    text: str,
    images: Sequence[object] = (),
    audio: Sequence[object] = (),
    system: str | None = None,
    thinking: bool = False,
    template: str | None = None,
    special_tokens: tuple[str, ...] = (),
    *,
    videos: Sequence[object] = (),
    frames: Frames | None = None,
    sound_first: bool = False,
) -> Prompt:
    """One question to a prompt that can be fed, media where the model card advises: pictures, videos, text, sound.

    `frames` reads videos. `sound_first`: sound, pictures, videos, text.
    """
    prepared, media = prepare_turn(text, images, audio, system, videos=videos, sound_first=sound_first)
    return _composed(prepared, media, None, thinking, template, True, special_tokens, {}, None, frames)


def _composed(
    messages: list[dict[str, Any]],
    media: list[Media],
    tools: list[dict[str, Any]] | None,
    thinking: bool,
    template: str | None,
    add_generation_prompt: bool,
    special_tokens: tuple[str, ...],
    options: Mapping[str, Any],
    begun: tuple[str, str] | None = None,
    frames: Frames | None = None,
) -> Prompt:
    """Checked messages, guarded, rendered and cut into segments. `begun`: thought and words to be continued."""
    guard = free_character(json.dumps([messages, tools, begun], ensure_ascii=False))

    def plain(text: str) -> str:
        return guards(special_tokens).guarded(text, guard)

    guarded = [_guarded_message(message, plain) for message in messages]
    arguments = (_mapped(tools, plain), thinking, template)
    text = _render(guarded, *arguments, add_generation_prompt, options)
    if add_generation_prompt and text.endswith((_TURN_END, _TURN_END + THOUGHT_OPEN)):
        text = text.removesuffix(THOUGHT_OPEN) + _opener(thinking, template, options)
    thought, words = map(plain, begun or ("", ""))
    text = with_beginning(text, thought, words)
    cut = segments(text, media, guard, special_tokens, frames)
    inside = bool(thought) and not words
    return Prompt(
        text.replace(guard, ""),
        tuple(cut),
        thinking_open=inside or text.endswith(THOUGHT_OPEN),
        thought_begun=inside,
        may_think=thinking and not begun,
        words=begun[1] if begun else "",
    )


def segments(
    rendered: str,
    media: Sequence[Media],
    guard: str = "",
    special_tokens: tuple[str, ...] = (),
    frames: Frames | None = None,
) -> list[Segment]:
    """Cut a rendered prompt at its media placeholders; `media` as `prepare_messages` gives them.

    A placeholder becomes `<|image>`, an ImageSegment, `<image|>` (audio likewise), as the reference expands it; a
    video as many frames as `frames` makes of it, each a picture behind its time, with spaces between.
    `guard`: the character that marks look-alikes of special tokens in `rendered`, see the module's text; empty for
    none. Raises InputError unless placeholders and media agree in number, kind and order.
    """
    pieces = _PLACEHOLDER.split(rendered)  # text, kind, text, kind, …, text
    wanted, given = pieces[1::2], [kind for kind, _ in media]
    if wanted != given:
        raise InputError(
            f"the prompt has places for {_counted(wanted)}, in this order, but was given {_counted(given)}; "
            "the chat template leaves media out or moves them"
        )
    found: list[Segment] = []
    text = pieces[0]

    def add(words: str) -> None:
        found.extend(TextSegment(piece) for piece in guards(special_tokens).cut(words, guard) if piece)

    for (kind, medium), after in zip(media, pieces[2::2], strict=True):
        mark = "image" if kind == "video" else kind
        for words, segment in _shown(kind, medium, frames):
            add(f"{text}{words}<|{mark}>")
            found.append(segment)
            text = f"<{mark}|> "
        text = text.removesuffix(" ") + after
    add(text)
    return found


def _shown(kind: str, medium: Any, frames: Frames | None) -> Sequence[tuple[str, MediaSegment]]:
    """What stands in the place of one medium: words before each picture or clip, and where that goes."""
    if kind != "video":
        return [("", _MEDIA[kind](medium))]
    if frames is None:
        raise InputError("a video, and nobody to read it: give its frames as images")
    return [(f"{time} ", FrameSegment(frame)) for time, frame in frames(medium)]


def raw_segments(
    prompt: str,
    images: Iterable[object] = (),
    audio: Iterable[object] = (),
    videos: Iterable[object] = (),
    frames: Frames | None = None,
) -> list[Segment]:
    """Cut a raw prompt, in which every special token counts, at `<|image|>`, `<|audio|>` and `<|video|>`, which take
    the media in order.

    Raises InputError unless there are as many placeholders as media of each kind.
    """
    given = {
        "image": [payload("image", image, f"images[{i}]") for i, image in enumerate(images)],
        "audio": [payload("audio", clip, f"audio[{i}]") for i, clip in enumerate(audio)],
        "video": [payload("video", video, f"videos[{i}]") for i, video in enumerate(videos)],
    }
    wanted = _PLACEHOLDER.findall(prompt)
    for kind, sources in given.items():
        if wanted.count(kind) != len(sources):
            raise InputError(
                f"the prompt has {wanted.count(kind)} {kind} placeholders, but {len(sources)} were given; "
                f"write <|{kind}|> once for each {kind}"
            )
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the prompt is not Unicode: half a surrogate pair at character {error.start}") from error
    left = {kind: iter(sources) for kind, sources in given.items()}
    return segments(prompt, [(kind, next(left[kind])) for kind in wanted], frames=frames)


def text_segments(text: str, special_tokens: tuple[str, ...] = ()) -> list[str]:
    """Cut a text where it looks like a special token, so that its pieces can be tokenised apart. Raises InputError."""
    if not isinstance(text, str):
        raise InputError(f"text: expected a text, found {type(text).__name__}")
    guard, known = free_character(text), guards(special_tokens)
    return known.cut(known.guarded(text, guard), guard)


def _render(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    thinking: bool,
    template: str | None,
    add_generation_prompt: bool,
    options: Mapping[str, Any],
) -> str:
    reserved = {"messages", "enable_thinking"} & set(options)
    if reserved:
        raise InputError(f"{min(reserved)} is no template option; use the parameters messages and thinking")
    for name, flag in {"thinking": thinking, "add_generation_prompt": add_generation_prompt}.items():
        if not isinstance(flag, bool):
            raise InputError(f"{name} is {shown(flag)}, expected True or False")
    source = default_template() if template is None else template
    names = {**prepare_options(options), "enable_thinking": thinking, "add_generation_prompt": add_generation_prompt}
    return render_template(source, messages, tools, **names)


def _opener(thinking: bool, template: str | None, options: Mapping[str, Any]) -> str:
    """What the template writes to open the model's turn after a user's message."""
    short = [{"role": "user", "content": "-"}]
    closed, opened = (_render(short, None, thinking, template, add, options) for add in (False, True))
    return opened.removeprefix(closed) if opened.startswith(closed) else ""


def _counted(kinds: Sequence[str]) -> str:
    return f"{len(kinds)} media" + (f" ({', '.join(kinds)})" if kinds else "")


# --- guards ---


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of plain data with every text in it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return value


def _guarded_message(message: Mapping[str, Any], plain: Callable[[str], str]) -> dict[str, Any]:
    """A message whose texts went through `plain`, but for the channel marks in an assistant's content."""

    def spoken(text: str) -> str:
        return "".join(part if _CHANNEL_MARK.fullmatch(part) else plain(part) for part in _CHANNEL_MARK.split(text))

    assistant = message["role"] == "assistant"
    return {key: _mapped(value, spoken if assistant and key == "content" else plain) for key, value in message.items()}
