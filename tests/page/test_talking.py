"""Talking with the page: what the microphone hears is answered, and speaking again stops an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from gemma4gguf.server.security import Guard
from gemma4gguf.server.settings import Limits
from tests.page.conftest import ARGUMENTS, greedy
from tests.page.test_page import ask
from tests.support import chromium
from tests.support.serving import Serving, eventually, serving
from tests.support.spoken import RATE, clips


@pytest.fixture(scope="module")
def browser(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One whose microphone hears a word every few seconds."""
    sound = tmp_path_factory.mktemp("sound") / "words.wav"
    soundfile.write(sound, np.concatenate([clips()[0][1], np.zeros(3 * RATE // 2, np.float32)]), RATE)
    arguments = [*ARGUMENTS[:-1], f"--use-file-for-fake-audio-capture={sound}"]
    launched = browser.browser_type.launch(executable_path=chromium.program(), args=arguments)
    yield launched
    launched.close()


def test_a_spoken_conversation(page: Page, server: Serving) -> None:
    """On a phone, by keys."""
    page.set_viewport_size({"width": 390, "height": 800})
    talk = page.get_by_role("button", name="Talk")
    page.get_by_role("textbox", name="Question").fill("What is said?")
    talk.focus()
    page.keyboard.press("Enter")
    expect(talk).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("status")).to_contain_text("Listening. Pause to be answered.")
    expect(page.locator(".assistant .body").nth(1)).to_contain_text("I hear")
    expect(page.locator(".foot", has_text="tokens/s").first).to_be_visible()
    expect(page.locator(".user .body").nth(1)).to_have_text("What is said?")
    expect(page.locator(".user audio").nth(1)).to_be_attached()
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    talk.click()
    expect(talk).to_have_attribute("aria-pressed", "false")
    expect(page.get_by_role("status")).to_be_hidden()
    eventually(lambda: not server.service.live)
    ask(page, "What is 47 + 38?")
    expect(page.locator(".user .body").last).to_have_text("What is 47 + 38?")
    expect(page.locator(".assistant .body").last).not_to_be_empty()


def test_ending_in_the_middle_of_a_turn(page: Page, server: Serving) -> None:
    """What was said is answered, and no more is heard."""
    talk = page.get_by_role("button", name="Talk")
    talk.click()
    expect(page.get_by_role("status")).to_have_text("Hearing you.")
    talk.click()
    expect(talk).to_have_attribute("aria-pressed", "false")
    expect(page.locator(".assistant .body").last).not_to_be_empty()
    eventually(lambda: not server.service.live)


def test_speaking_again_stops_an_answer(open_page: Callable[[str], Page], bundle: Path) -> None:
    """Of a random model, which talks until it is stopped."""
    with serving(bundle, limits=Limits(tokens=8000), context=8192) as endless:
        page = greedy(open_page(endless.url))
        talk = page.get_by_role("button", name="Talk")
        talk.click()
        expect(page.locator(".assistant", has_text="Stopped.").first).to_be_visible()
        expect(page.locator(".user audio").nth(1)).to_be_attached()
        page.keyboard.press("Escape")
        expect(talk).to_have_attribute("aria-pressed", "false")
        eventually(lambda: not endless.service.live)


def test_the_key(open_page: Callable[[str], Page], tiny_bundle: Path) -> None:
    key = "a key/with?signs"
    with serving(tiny_bundle, guard=Guard(key, local=True)) as guarded:
        page = open_page(guarded.url)
        page.get_by_role("textbox", name="Key").fill(key)
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#model")).to_have_text("tiny")
        talk = page.get_by_role("button", name="Talk")
        talk.click()
        expect(page.get_by_role("status")).to_contain_text("Listening. Pause to be answered.")
        talk.click()
        eventually(lambda: not guarded.service.live)
