"""A conversation as a JSON text: what `Conversation.save` and the command line's /save write.

Messages come in as the OpenAI API has them, media as data: URLs and base64. Text goes out, and back: what is read is
untrusted, and nothing that it names is opened.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import InputError
from .messages import prepare_messages, prepare_tools

FORMAT, VERSION = "gemma4gguf chat", 1


@dataclass(frozen=True)
class Saved:
    """What is kept of a conversation. `attached`: parts that the next question takes along; `dropped`: turns gone."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    thinking: bool = False
    tools: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0
    attached: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> str:
        """The conversation as a text."""
        whole = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Saved:
        """What `to_json` made. Raises InputError for anything else."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not a saved chat: no JSON ({error})") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError("not a saved chat; /save and Conversation.save write one")
        if found.get("version") != VERSION:
            version = f"{found.get('version')!a:.40}"
            raise InputError(f"saved by another version (format {version}, expected {VERSION})")
        empty = asdict(cls())
        given = {each.name: found.get(each.name, empty[each.name]) for each in fields(cls)}
        for name, value in given.items():
            if type(value) is not type(empty[name]):
                expected = type(empty[name]).__name__
                raise InputError(f"a damaged chat: {name}: expected {expected}, found {type(value).__name__}")
        saved = cls(**given)
        question = [{"role": "user", "content": saved.attached}] if saved.attached else []
        if saved.messages or question:
            prepare_messages([*saved.messages, *question], local_files=False)
        prepare_tools(saved.tools)
        return saved
