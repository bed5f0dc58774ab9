"""What a person does with the page: ask, show, say, think, call, stop, edit, go on, come back."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from gemma4gguf.server.security import Guard
from gemma4gguf.server.settings import Limits
from tests.page.conftest import greedy
from tests.support.serving import DEMO, WEATHER, Serving, serving

PICTURE, CLIP = DEMO / "digits.png", DEMO / "number.wav"
TOOLS = json.dumps([{"type": "function", "function": WEATHER}])
# A file that arrives by drag and drop, or from the clipboard: its bytes, name and type.
TRANSFER = """([data, name, type]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type }));
    return transfer;
}"""


def ask(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Question").fill(text)
    page.keyboard.press("Enter")


def answer(page: Page, text: str) -> None:
    """The last answer is this one, and it is over."""
    expect(page.locator(".assistant .body").last).to_have_text(text)
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def settings(page: Page, **given: str | bool) -> None:
    page.get_by_role("button", name="Settings").click()
    for name, value in given.items():
        if isinstance(value, bool):
            page.locator(f"#{name}").set_checked(value)
        else:
            page.locator(f"#{name}").evaluate("(node) => node.closest('details')?.setAttribute('open', '')")
            page.locator(f"#{name}").fill(value)
    page.get_by_role("button", name="Done").click()


def encoded(path: Path, kind: str) -> list[str]:
    return [base64.b64encode(path.read_bytes()).decode(), path.name, kind]


def test_a_question(page: Page) -> None:
    expect(page.locator("#model")).to_have_text("tiny")
    ask(page, "What is 47 + 38?")
    answer(page, "47 + 38 = 85")
    expect(page.locator(".foot").last).to_contain_text("tokens/s")
    expect(page.locator("#counts")).to_contain_text("of 2,048 positions left")
    expect(page.get_by_role("heading", level=1)).to_have_text("What is 47 + 38?")


def test_a_picture_that_is_dropped(page: Page) -> None:
    transfer = page.evaluate_handle(TRANSFER, encoded(PICTURE, "image/png"))
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    expect(page.get_by_role("img", name="digits.png")).to_be_visible()
    ask(page, "What number is this?")
    answer(page, "I read the number 4072.")


def test_a_picture_that_is_pasted(page: Page) -> None:
    transfer = page.evaluate_handle(TRANSFER, encoded(PICTURE, "image/png"))
    page.evaluate(
        "(data) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))",
        transfer,
    )
    expect(page.get_by_role("img", name="digits.png")).to_be_visible()
    ask(page, "What number is this?")
    answer(page, "I read the number 4072.")


def test_sound_by_file_and_taking_it_back(page: Page) -> None:
    page.get_by_label("Pictures or sound", exact=True).set_input_files([CLIP, PICTURE])
    page.get_by_role("button", name="Remove digits.png").click()
    expect(page.get_by_role("list", name="Attached").locator("li")).to_have_count(1)
    ask(page, "What is said?")
    answer(page, "I hear the digit 7.")


def test_a_file_of_another_kind(page: Page) -> None:
    page.get_by_label("Pictures or sound", exact=True).set_input_files(Path(__file__))
    expect(page.get_by_role("status")).to_contain_text("test_page.py: is neither a picture nor sound")


def test_the_microphone(page: Page) -> None:
    """Chromium plays the clip into it."""
    record = page.get_by_role("button", name="Record")
    record.click()
    expect(record).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(1500)
    record.click()
    recorded = page.locator("#attached audio")
    expect(recorded).to_have_count(1)
    head = base64.b64decode((recorded.get_attribute("src") or "").partition(",")[2])[:44]
    assert (head[:4], head[8:12], int.from_bytes(head[24:28], "little")) == (b"RIFF", b"WAVE", 16_000)
    ask(page, "What is said?")
    expect(page.locator(".assistant .body").last).to_contain_text("I hear")


def test_a_thought_is_folded(page: Page) -> None:
    settings(page, thinking=True)
    ask(page, "What is 47 + 38?")
    expect(page.locator(".assistant .body")).to_contain_text("85")
    thought = page.locator(".thought div")
    expect(thought).to_be_hidden()
    page.get_by_text("Thought").click()
    expect(thought).to_be_visible()
    expect(thought).not_to_be_empty()


def test_a_tool(page: Page) -> None:
    settings(page, tools="{")
    expect(page.get_by_role("alert")).to_contain_text("Not JSON")
    page.locator("#tools").fill(TOOLS)
    page.get_by_role("button", name="Done").click()
    ask(page, "What is the weather in Oslo?")
    expect(page.locator(".calls")).to_contain_text("Calls get_weather")
    expect(page.locator(".calls pre")).to_contain_text('"city": "Oslo"')
    page.get_by_label("Result of get_weather").fill("rain, 7 degrees")
    page.get_by_role("button", name="Give result").click()
    expect(page.locator(".assistant .body").last).to_contain_text("7")


@pytest.fixture(scope="module")
def endless(bundle: Path) -> Iterator[Serving]:
    """A server with a random model, which talks until it is stopped."""
    with serving(bundle, limits=Limits(tokens=1500)) as running:
        yield running


def test_stopping(open_page: Callable[[str], Page], endless: Serving) -> None:
    page = greedy(open_page(endless.url))
    ask(page, "Talk")
    expect(page.locator(".assistant .body")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator(".assistant")).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator(".assistant .body")).not_to_be_empty()


def test_going_on_where_an_answer_was_cut(open_page: Callable[[str], Page], tiny_bundle: Path) -> None:
    with serving(tiny_bundle, limits=Limits(tokens=6)) as short:
        page = greedy(open_page(short.url))
        ask(page, "What is 47 + 38?")
        for text in ("47 + 3", "47 + 38 = 85"):
            answer(page, text)
            page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("button", name="Continue")).to_have_count(0)


def test_editing_and_trying_again(page: Page) -> None:
    ask(page, "What is 47 + 38?")
    answer(page, "47 + 38 = 85")
    page.get_by_role("button", name="Try again").click()
    answer(page, "47 + 38 = 85")
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_role("textbox", name="Question")).to_have_value("What is 47 + 38?")
    expect(page.locator(".message")).to_have_count(0)
    ask(page, "What is 12 + 30?")
    answer(page, "12 + 30 = 42")


def test_chats_are_kept_deleted_and_exported(page: Page) -> None:
    for question in ("What is 47 + 38?", "What is 12 + 30?"):
        page.get_by_role("button", name="New chat").click()
        ask(page, question)
        expect(page.locator(".assistant .body")).to_contain_text("=")
        expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.reload()
    expect(page.locator("#chats button")).to_have_text(["What is 12 + 30?", "What is 47 + 38?"])
    answer(page, "12 + 30 = 42")
    page.locator("#chats button").last.click()
    answer(page, "47 + 38 = 85")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export this chat").click()
    exported = json.loads(Path(download.value.path()).read_text())
    assert [message["role"] for message in exported["messages"]] == ["user", "assistant"]
    page.get_by_role("button", name="Delete this chat").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#chats button")).to_have_text(["What is 12 + 30?"])
    answer(page, "12 + 30 = 42")


def test_the_key(open_page: Callable[[str], Page], tiny_bundle: Path) -> None:
    with serving(tiny_bundle, guard=Guard("secret", local=True)) as locked:
        page = open_page(locked.url)
        for key in ("wrong", "secret"):
            expect(page.get_by_role("dialog", name="API key")).to_be_visible()
            page.get_by_role("textbox", name="Key").fill(key)
            page.get_by_role("button", name="Go on").click()
        expect(page.locator("#model")).to_have_text("tiny")
        ask(greedy(page), "What is 47 + 38?")
        answer(page, "47 + 38 = 85")


def test_a_server_that_is_gone_and_comes_back(open_page: Callable[[str], Page], tiny_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(tiny_bundle, port=port) as running:
        page = greedy(open_page(running.url))
        expect(page.locator("#model")).to_have_text("tiny")
    ask(page, "What is 47 + 38?")
    expect(page.get_by_role("status")).to_contain_text("The server does not answer")
    expect(page.locator(".assistant .foot")).to_contain_text("The server does not answer")
    with serving(tiny_bundle, port=port):
        expect(page.get_by_role("status")).to_be_hidden()
        page.get_by_role("button", name="Try again").click()
        answer(page, "47 + 38 = 85")


def test_a_server_that_is_busy(open_page: Callable[[str], Page], tiny_bundle: Path) -> None:
    with serving(tiny_bundle, limits=Limits(queue=0), parallel=1) as one:
        page = greedy(open_page(one.url))
        place = one.service.place()
        one.on_loop(place.__aenter__())
        ask(page, "What is 47 + 38?")
        expect(page.locator(".assistant .foot")).to_contain_text("at work for others")
        one.on_loop(place.__aexit__(None, None, None))
        page.get_by_role("button", name="Try again").click()
        answer(page, "47 + 38 = 85")
