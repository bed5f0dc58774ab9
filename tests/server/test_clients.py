"""Other programs' clients, each unchanged but for its address: LiteLLM and llm, with streams and tools."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from tests.support.serving import DEMO, WEATHER, Serving, serving

QUESTION = "What is 47 + 38?"


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network while it is imported
    import litellm

    return litellm


@pytest.mark.parametrize("route", ["openai/tiny", "anthropic/tiny", "ollama_chat/tiny"])
def test_litellm(server: Serving, litellm: Any, route: str) -> None:
    address = f"{server.url}/v1" if route.startswith("openai") else server.url
    how = {"model": route, "api_base": address, "api_key": "none", "temperature": 0, "max_tokens": 64}
    asked = [{"role": "user", "content": QUESTION}]
    assert litellm.completion(messages=asked, **how).choices[0].message.content == "47 + 38 = 85"
    parts = list(litellm.completion(messages=asked, stream=True, **how))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "47 + 38 = 85"
    weather = [{"role": "user", "content": "What is the weather in Oslo?"}]
    reply = litellm.completion(messages=weather, tools=[{"type": "function", "function": WEATHER}], **how)
    (call,) = reply.choices[0].message.tool_calls
    assert (call.function.name, "Oslo" in call.function.arguments) == ("get_weather", True)


def test_litellm_in_front_of_two_servers(server: Serving, tiny_bundle: Path, litellm: Any) -> None:
    """Its router shares questions out, and goes on with one server when the other has ended."""
    asked = {"model": "gemma", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 32}

    def answered(running: Serving) -> int:
        counters = httpx.get(f"{running.url}/metrics").text
        return int(counters.partition("\ngemma4gguf_answers_total ")[2].split()[0])

    before = answered(server)
    with serving(tiny_bundle) as second:
        both = [{"model": "openai/tiny", "api_base": f"{one.url}/v1", "api_key": "none"} for one in (server, second)]
        router = litellm.Router([{"model_name": "gemma", "litellm_params": one} for one in both], num_retries=3)
        random.seed(0)  # it chooses by chance
        texts = [router.completion(**asked).choices[0].message.content for _ in range(8)]
        assert min(answered(server) - before, answered(second)) > 0
    texts += [router.completion(**asked).choices[0].message.content for _ in range(4)]
    assert texts == ["47 + 38 = 85"] * 12


def test_llm(server: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program llm, as its documents say: a file that names the model and its address."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: gemma\n  model_name: tiny\n  api_base: {server.url}/v1\n  api_key_name: none\n  vision: true\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    from llm.cli import cli

    def llm(*arguments: str) -> str:
        command = ["prompt", *arguments, "-m", "gemma", "--key", "none", "-o", "temperature", "0"]
        return CliRunner().invoke(cli, command, catch_exceptions=False).stdout.strip()

    assert llm(QUESTION) == llm(QUESTION, "--no-stream") == "47 + 38 = 85"
    parts = [{"type": "text", "text": "What number is this?"}, {"type": "image", "path": str(DEMO / "digits.png")}]
    own = server.model.chat([{"role": "user", "content": parts}], local_files=True, temperature=0)
    assert llm("What number is this?", "-a", str(DEMO / "digits.png")) == own.text
