"""Conversations of all kinds as the OpenAI API has them, and the same in the words of Anthropic's and Ollama's."""

from __future__ import annotations

import json
from typing import Any

from .serving import DEMO, WEATHER, encoded

PICTURE, CLIP = encoded(DEMO / "digits.png"), encoded(DEMO / "number.wav")
TOOLS: list[Any] = [{"type": "function", "function": WEATHER}]
Asked = dict[str, Any]  # messages, and maybe tools and thinking


def _user(text: str) -> Any:
    return {"role": "user", "content": text}


def _picture(text: str) -> Any:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
    return {"role": "user", "content": [image, {"type": "text", "text": text}]}


def conversations() -> list[Asked]:
    """Fifty: sums, thoughts, system texts, pictures, tools asked for and answered, several turns.

    No sound: only OpenAI's API has a place for it.
    """
    sums = [f"What is {a} + {b}?" for a, b in zip(range(3, 60, 3), range(70, 13, -3), strict=True)]
    asked: list[Asked] = [{"messages": [_user(text)]} for text in sums[:15]]
    asked += [{"messages": [_user(text)], "thinking": True} for text in sums[:8]]
    asked += [{"messages": [{"role": "system", "content": "Be brief."}, _user(text)]} for text in sums[:7]]
    texts = ("What number is this?", "Read the number.", "Hello", "What do you see?")
    asked += [{"messages": [_picture(text)]} for text in texts]
    for city in ("Oslo", "Rome", "Lima", "Bern"):
        question = _user(f"What is the weather in {city}?")
        asked.append({"messages": [question], "tools": TOOLS})
        call = {"id": "call_1", "type": "function"}
        function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
        turns = [question, {"role": "assistant", "content": "", "tool_calls": [{**call, "function": function}]}]
        turns += [{"role": "tool", "tool_call_id": "call_1", "content": "rain, 7 degrees"}]
        asked.append({"messages": turns, "tools": TOOLS})
    for first, second in zip(sums[:8], sums[8:16], strict=True):
        turns = [_user(first), {"role": "assistant", "content": "I do not know."}, _user(second)]
        asked.append({"messages": turns})
    return asked


def as_openai(asked: Asked) -> Asked:
    """The body of /v1/chat/completions."""
    more = {"tools": asked["tools"]} if "tools" in asked else {}
    return {"messages": asked["messages"], "reasoning_effort": "low" if asked.get("thinking") else "none", **more}


def as_anthropic(asked: Asked) -> Asked:
    """The body of /v1/messages."""
    body: Asked = {"model": "any", "messages": []}
    if asked.get("thinking"):
        body["thinking"] = {"type": "adaptive"}
    for tool in asked.get("tools", ()):
        f = tool["function"]
        declared = {"name": f["name"], "description": f["description"], "input_schema": f["parameters"]}
        body.setdefault("tools", []).append(declared)
    for message in asked["messages"]:
        if message["role"] == "system":
            body["system"] = message["content"]
        elif message["role"] == "tool":
            block = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"]}
            body["messages"].append({"role": "user", "content": [block]})
        else:
            body["messages"].append({"role": message["role"], "content": _blocks(message)})
    return body


def _blocks(message: Any) -> Any:
    if isinstance(message["content"], list):
        source = {"type": "base64", "media_type": "image/png", "data": PICTURE}
        return [{"type": "image", "source": source}, message["content"][1]]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    used = [{"type": "tool_use", "id": "call_1", "name": f["name"], "input": json.loads(f["arguments"])} for f in calls]
    return used or message["content"]


def as_ollama(asked: Asked) -> Asked:
    """The body of /api/chat."""
    messages = []
    for message in asked["messages"]:
        said: Any = {"role": message["role"], "content": message["content"]}
        if isinstance(message["content"], list):
            said |= {"content": message["content"][1]["text"], "images": [PICTURE]}
        for call in message.get("tool_calls", ()):
            function = {**call["function"], "arguments": json.loads(call["function"]["arguments"])}
            said.setdefault("tool_calls", []).append({"function": function})
        messages.append(said)
    more = {"tools": asked["tools"]} if "tools" in asked else {}
    return {"model": "any", "messages": messages, "think": bool(asked.get("thinking")), **more}
