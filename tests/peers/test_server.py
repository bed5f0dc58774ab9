"""The server to those who know others': llama.cpp's own tests of a server, and `openai` of npm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.runtimes import node_script
from tests.support.serving import DEMO, WEATHER, serving

ROOT = Path(__file__).parents[2]


def test_llama_cpp_s_own_tests(peers: Path, tiny_bundle: Path) -> None:
    script = ROOT / "scripts" / "check_llama_server_tests.py"
    command = [sys.executable, str(script), str(tiny_bundle), "--sources", str(peers / "llama.cpp")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


def test_openai_of_npm(node_folder: Path, tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as server:
        found: dict[str, Any] = json.loads(
            node_script(node_folder, "openai.mjs", f"{server.url}/v1", DEMO / "digits.png", json.dumps(WEATHER))
        )
        asked = [{"role": "user", "content": "What is the weather in Oslo?"}, found["call"], found["returned"]]
        tools = [{"type": "function", "function": WEATHER}]
        told = server.model.chat(asked, tools=tools, temperature=0, max_tokens=64).text
    assert found["models"] == ["tiny"]
    assert found["answer"] == "".join(found["deltas"]) == "47 + 38 = 85"
    assert len(found["deltas"]) > 1
    called = found["call"]["tool_calls"][0]["function"]
    assert (called["name"], json.loads(called["arguments"])) == ("get_weather", {"city": "Oslo"})
    assert found["told"] == told
    assert found["seen"] == "I read the number 4072."
    assert found["form"] in ({"colour": "red"}, {"colour": "blue"})
    assert found["error"] == [400, "temperature"]
