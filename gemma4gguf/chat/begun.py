"""A started answer that is to be continued: out of the messages, and to the end of the prompt.

In: checked messages, and a prompt that opens the model's turn. Out: the same prompt with what the model said already.
"""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from .reply import CHANNEL, CHANNEL_END, THOUGHT

THOUGHT_OPEN = f"{CHANNEL}{THOUGHT}\n"
_NO_THOUGHT = THOUGHT_OPEN + CHANNEL_END


def taken_out(prepared: list[dict[str, Any]]) -> tuple[str, str]:
    """Take the last message, which is to be continued, out of checked ones: its thought and its words."""
    where, last = f"messages[{len(prepared) - 1}]", prepared.pop()
    if last["role"] != "assistant" or last.get("tool_calls"):
        calls = "tool calls" if last["role"] == "assistant" else f"a message of role {last['role']}"
        raise InputError(f"{where}: {calls} cannot be continued (continue_final_message); end with an assistant's text")
    if not prepared or prepared[-1].get("tool_calls"):
        raise InputError(f"{where}: an answer to nothing cannot be continued; put what it answers before it")
    words = last["content"] if isinstance(last["content"], str) else "".join(part["text"] for part in last["content"])
    return last.get("reasoning") or last.get("reasoning_content") or "", words


def with_beginning(opened: str, thought: str, words: str) -> str:
    """A prompt that opens the model's turn, with the beginning of its answer."""
    if thought:
        closed = f"\n{CHANNEL_END}{words}" if words else ""
        return opened.removesuffix(_NO_THOUGHT).removesuffix(THOUGHT_OPEN) + THOUGHT_OPEN + thought + closed
    return opened.removesuffix(THOUGHT_OPEN) + words if words else opened
