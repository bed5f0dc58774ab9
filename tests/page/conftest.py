"""A headless Chromium that reaches this machine alone, and the page in it, asking a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support import chromium
from tests.support.serving import DEMO, Serving, serving

ARGUMENTS = (
    "--no-sandbox",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    f"--use-file-for-fake-audio-capture={DEMO / 'number.wav'}%noloop",
)
expect.set_options(timeout=60_000)  # ms; a slow machine is no failure


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium.program(), args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def server(tiny_bundle: Path) -> Iterator[Serving]:
    with serving(tiny_bundle) as running:
        yield running


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser of a new person, at 1280 x 800."""
    made = browser.new_context(viewport={"width": 1280, "height": 800}, permissions=["microphone", "clipboard-write"])
    yield made
    made.close()


@pytest.fixture
def open_page(context: BrowserContext) -> Iterator[Callable[[str], Page]]:
    """Opens the page at an address. Fails the test where it writes an error, breaks its policy, or asks elsewhere."""
    wrong: list[str] = []

    def opened(url: str) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        page.on("request", lambda asked: wrong.append(asked.url) if not _own(asked.url, url) else None)
        page.goto(url)
        return page

    yield opened
    assert not wrong


def _own(asked: str, url: str) -> bool:
    return asked.startswith((url, "data:", "blob:"))


@pytest.fixture
def page(open_page: Callable[[str], Page], server: Serving) -> Page:
    """The page, greedy, so that answers can be known."""
    return greedy(open_page(server.url))


def greedy(page: Page) -> Page:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Done").click()
    return page
