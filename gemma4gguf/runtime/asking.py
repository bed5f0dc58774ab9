"""The keywords of every way to ask: a question, a chat, the next turn of a conversation.

In: keywords as callers give them. Out: a record of what belongs to the prompt, and the options of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, TypeVar

from ..arguments import one_of
from ..chat.choice import ToolChoice
from ..errors import InputError
from ..media.audio import Clips
from ..media.rgb import Images
from ..media.video import Videos
from .options import GenerateOptions

GENERATE_OPTIONS = "Unpack[GenerateOptions]"
"""How signatures show the options of an answer."""
OnFull: TypeAlias = Literal["error", "drop"]
Progress: TypeAlias = Callable[[int, int], None]


class TurnOptions(GenerateOptions, total=False):
    """Keywords of `Conversation.say` and its like; `Turn` has the defaults."""

    images: Images
    audio: Clips
    on_progress: Progress | None


class QuestionOptions(TurnOptions, total=False):
    """Keywords of `Gemma4.generate` and its like; `Question` has the defaults."""

    videos: Videos
    system: str | None
    thinking: bool
    raw: bool


class ChatOptions(GenerateOptions, total=False):
    """Keywords of `Gemma4.chat` and its like; `Chat` has the defaults."""

    tools: Sequence[Mapping[str, object]] | None
    tool_choice: ToolChoice
    thinking: bool
    continue_final_message: bool
    local_files: bool
    on_full: OnFull
    on_progress: Progress | None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What goes with one text of a user."""

    images: Images = ()
    audio: Clips = ()
    on_progress: Progress | None = None


@dataclass(frozen=True, kw_only=True)
class Question(Turn):
    """What goes with one prompt."""

    videos: Videos = ()
    system: str | None = None
    thinking: bool = False
    raw: bool = False

    def __post_init__(self) -> None:
        if self.raw and (self.system is not None or self.thinking):
            raise InputError("a raw prompt has no template for system or thinking; write them into the prompt")


@dataclass(frozen=True, kw_only=True)
class Chat:
    """What goes with messages."""

    tools: Sequence[Mapping[str, object]] | None = None
    tool_choice: ToolChoice = "auto"
    thinking: bool = False
    continue_final_message: bool = False
    local_files: bool = False
    on_full: OnFull = "error"
    on_progress: Progress | None = None

    def __post_init__(self) -> None:
        one_of("on_full", self.on_full, ("error", "drop"))


Asked = TypeVar("Asked", bound="Turn | Chat")


def parted(record: type[Asked], given: Mapping[str, Any]) -> tuple[Asked, dict[str, Any]]:
    """Keywords -> those of a record as this record, and the others, which are options of the answer."""
    rest = dict(given)
    own = {field.name: rest.pop(field.name) for field in fields(record) if field.name in rest}
    return record(**own), rest
