"""Strangers' templates are rendered in a process of their own: as in this one, and nothing in them harms this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gemma4gguf.chat import sandbox
from gemma4gguf.chat.child import Child
from gemma4gguf.chat.rendering import default_template, render
from gemma4gguf.chat.template import KNOWN, digest, render_template
from gemma4gguf.errors import FormatError, InputError
from gemma4gguf.limits import limited
from tests.support.templates import ATTACKS, CONVERSATION, ENDLESS, KINDS, OPTIONS, TOOLS

ROOT = Path(__file__).parent.parent
NAMES = {"documents": None, **OPTIONS, "messages": CONVERSATION, "tools": TOOLS}


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child()
    with limited(template_seconds=60):
        yield made
    made.close()


def run(code: str, *given: str) -> str:
    """What a Python program prints that starts with this package at hand."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *given]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300).stdout


# ── as before ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_renders_as_in_this_process(kind: str) -> None:
    expected = sandbox.render(KINDS[kind], NAMES)
    assert len(expected) > 20
    assert render_template(KINDS[kind], CONVERSATION, TOOLS, **OPTIONS) == expected


def test_our_own_templates_are_known_and_render_alike_in_both(child: Child) -> None:
    ours, tiny = default_template(), (ROOT / "models/tiny/chat_template.jinja").read_text("utf-8")
    assert {digest(ours), digest(tiny)} < set(KNOWN)
    for source in (ours, tiny):
        assert child.render(source, NAMES) == sandbox.render(source, NAMES)


@pytest.mark.parametrize("text", ["", "\x00\x1b\n\r\u2028", "é😀\U0010fffe\ufdd0", "\\ud800 \" '"])
def test_every_text_goes_through(text: str) -> None:
    assert render_template("{{ messages[0].content }}", [{"role": "user", "content": text}]) == text


def test_half_a_surrogate_pair_that_a_template_prints_comes_back() -> None:
    assert render_template("{{ '\\ud800' }}", []) == "\ud800"


def test_errors_are_of_the_same_kind_in_both(child: Child) -> None:
    for source in (
        "{{ raise_exception('roles must alternate') }}",
        "{{ 1 | nonsense }}",
        "a\n{% endfor %}",
        "{{ a.b.c }}",
    ):
        with pytest.raises((InputError, FormatError)) as here:
            sandbox.render(source, NAMES)
        with pytest.raises(here.type) as there:
            child.render(source, NAMES)
        assert str(there.value) == str(here.value)


@pytest.mark.parametrize("value", [object(), {1: 2}, float("nan"), b"x", [{"a": object()}]])
def test_template_options_are_plain_data(value: object) -> None:
    with pytest.raises(InputError, match="template_options"):
        render(CONVERSATION[1:2], template="{{ mood }}", mood=value)


# ── attacks ──────────────────────────────────────────────────────────────────────────────────────────────────────

BESIEGED = """
import json, resource, sys
from gemma4gguf.chat.child import Child
from gemma4gguf.errors import FormatError
from gemma4gguf.limits import limited
from tests.support.templates import ATTACKS

def peak(who):
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

child = Child()
child.render("{{ 1 }}", {})
before, said = peak(resource.RUSAGE_SELF), {}
for name, source in ATTACKS.items():
    try:
        with limited(template_seconds=0.2, template_memory=256 << 20):
            said[name] = f"rendered: {child.render(source, {})[:20]}"
    except FormatError as error:
        said[name] = str(error)
    assert child.render("{{ x }}", {"x": name}) == name
child.close()
grown = peak(resource.RUSAGE_SELF) - before
print(json.dumps({"said": said, "grown": grown, "child": peak(resource.RUSAGE_CHILDREN)}))
"""


@pytest.fixture(scope="module")
def siege() -> dict[str, Any]:
    """All attacks, one after the other, and a template that is none after each, in a program that does nothing else."""
    found: dict[str, Any] = json.loads(run(BESIEGED))
    return found


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_ends_in_one_line(name: str, siege: dict[str, Any]) -> None:
    said = siege["said"][name]
    assert said.startswith("the chat template ")
    assert said.isprintable()
    assert len(said) < 400


def test_attacks_leave_memory_alone(siege: dict[str, Any]) -> None:
    assert siege["grown"] < 16 << 20
    assert siege["child"] < 256 << 20


@pytest.mark.parametrize("stack", [128, 512])
def test_deep_data_in_a_thread_with_a_small_stack(stack: int) -> None:
    code = """
import sys, threading
from gemma4gguf.chat.rendering import render
deep = {"x": 1}
for _ in range(60): deep = {"a": deep}
call = {"type": "function", "function": {"name": "f", "arguments": deep}}
messages = [{"role": "user", "content": "-"}, {"role": "assistant", "tool_calls": [call]}]
threading.stack_size(int(sys.argv[1]) << 10)
thread = threading.Thread(target=lambda: print(render(messages).count("a:{")))
thread.start()
thread.join()
"""
    assert run(code, str(stack)).strip() == "60"


# ── the process ──────────────────────────────────────────────────────────────────────────────────────────────────


def pid_of(child: Child) -> int:
    while (process := child._process) is None:
        time.sleep(0.001)
    return process.pid


def in_thread(child: Child, source: str) -> tuple[threading.Thread, list[object]]:
    came: list[object] = []

    def work() -> None:
        try:
            came.append(child.render(source, {}))
        except Exception as error:
            came.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, came


@pytest.mark.parametrize("after", [0, 0.1, 0.5])
def test_killed_in_the_middle(child: Child, after: float) -> None:
    thread, came = in_thread(child, ENDLESS)
    pid = pid_of(child)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert str(came[0]) == "the chat template ended the process that renders it (SIGKILL)"
    assert child.render("{{ 1 }}", {}) == "1"


def test_killed_while_idle_is_not_noticed(child: Child) -> None:
    child.render("{{ 1 }}", {})
    pid = pid_of(child)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert child.render("{{ 2 }}", {}) == "2"


def test_ctrl_c_is_the_parents_business(child: Child) -> None:
    child.render("{{ 1 }}", {})
    pid = pid_of(child)
    os.kill(pid, signal.SIGINT)
    assert child.render("{{ 2 }}", {}) == "2"
    assert pid_of(child) == pid


def test_closed_in_the_middle(child: Child) -> None:
    thread, came = in_thread(child, ENDLESS)
    pid_of(child)
    child.close()
    thread.join()
    assert isinstance(came[0], FormatError)
    with pytest.raises(FormatError, match="this program is ending"):
        child.render("{{ 1 }}", {})


def test_many_threads_at_once(child: Child) -> None:
    def work(number: int) -> None:
        for turn in range(20):
            text = f"{number}/{turn}" * 1000
            if (number + turn) % 10:
                wrong.extend(() if child.render("{{ x }}", {"x": text}) == text else [text])
            else:
                with pytest.raises(InputError, match=text[:3]):
                    child.render("{{ raise_exception(x) }}", {"x": text})
            done.append(text)

    wrong: list[str] = []
    done: list[str] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(done), wrong) == (320, [])


FORKED = """
import os, signal, sys, threading, time
from gemma4gguf.chat import template
from gemma4gguf.errors import FormatError

def pid():
    return template._child._process.pid

def busy():
    try:
        template.render_template(sys.argv[1], [])
    except FormatError as error:
        print(error, flush=True)

assert template.render_template("{{ 1 }}", []) == "1"
mine = pid()
thread = threading.Thread(target=busy)
thread.start()
while not template._child._lock.locked():
    time.sleep(0.001)
fork = os.fork()
if fork == 0:
    assert template._child._process is None
    assert template.render_template("{{ 2 }}", []) == "2"
    assert pid() != mine
    template._child.close()
    os._exit(0)
assert os.waitpid(fork, 0)[1] == 0
assert thread.is_alive() and pid() == mine
os.kill(mine, signal.SIGKILL)
thread.join()
print(template.render_template("{{ 3 }}", []))
"""


def test_a_fork_gets_a_process_of_its_own() -> None:
    assert run(FORKED, ENDLESS).split("\n") == [
        "the chat template ended the process that renders it (SIGKILL)",
        "3",
        "",
    ]


def ends(pid: int) -> bool:
    for _ in range(3000):
        if gone(pid):
            return True
        time.sleep(0.01)
    return False


def gone(pid: int) -> bool:
    """Whether a process has ended, if only nobody has waited for it yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


LEAVING = """
import os, signal, sys, threading, time
from gemma4gguf.chat import template
template.render_template("{{ 1 }}", [])
print(template._child._process.pid, flush=True)
exec(sys.argv[1])
"""
WAYS_OUT = {
    "the end": "",
    "an exception": "raise ValueError",
    "SystemExit": "sys.exit(3)",
    "_exit": "os._exit(0)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "the end in the middle of a rendering": (
        "threading.Thread(target=template.render_template, args=(sys.argv[2], []), daemon=True).start()"
    ),
    "SIGKILL while a fork lives on": "os.fork() and os.kill(os.getpid(), signal.SIGKILL); sys.stdin.read()",
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_ends_with_its_parent(way: str) -> None:
    command = [sys.executable, "-c", LEAVING, WAYS_OUT[way], ENDLESS]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert ends(pid)
