"""Who cannot see, has no mouse, has a phone or reads from right to left; hostile text; long chats."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.page.test_page import answer, ask

HOSTILE = """
<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"><svg onload="window.hacked = 3">
<iframe src="https://evil.example/"></iframe><a href="javascript:window.hacked = 4">x</a>
[click](javascript:window.hacked=5) [data](data:text/html,<script>window.hacked=6</script>) [ok](https://ok.example/?a=1)
![picture](https://evil.example/picture.png) <https://evil.example/> https://evil.example/"onmouseover="window.hacked=7
`</code><script>window.hacked = 8</script>` **<b onclick=x>bold</b>** | <td> |
```html"><script>window.hacked = 9</script>
</code></pre><script>window.hacked = 10</script>
```
<style>* { display: none }</style><base href="https://evil.example/"><form action="https://evil.example/"><input></form>
"""
# Chats put where the page keeps them, by its own module.
KEEP = """async (messages) => {
    const { Store, newChat } = await import("/store.js");
    const store = await Store.open();
    await store.put({ ...newChat(), title: "kept", messages });
}"""


def keep(page: Page, messages: list[dict[str, Any]]) -> None:
    page.evaluate(KEEP, messages)
    page.reload()
    expect(page.locator(".message")).to_have_count(len(messages))


def said(text: str, role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"role": role, "text": text, "thought": "", "calls": [], "media": [], **more}


def test_hostile_text_runs_nothing_and_asks_nobody(page: Page) -> None:
    """The fixture fails the test where the policy had to step in, or a request left."""
    keep(
        page,
        [
            said(HOSTILE, "user"),
            said(HOSTILE, thought=HOSTILE, calls=[{"id": "1", "name": HOSTILE, "arguments": HOSTILE}]),
        ],
    )
    page.wait_for_timeout(500)
    assert page.evaluate("window.hacked") is None
    inside = page.locator(".message").locator("script, img, iframe, svg, style, base, object, embed, link")
    expect(inside).to_have_count(0)
    links = page.locator(".message a").evaluate_all("(links) => links.map((a) => [a.protocol, a.rel, a.target])")
    assert links
    assert {tuple(link) for link in links} == {("https:", "noopener noreferrer", "_blank")}
    assert (
        page.locator(".message [onerror], .message [onclick], .message [onload], .message [onmouseover]").count() == 0
    )


def test_a_megabyte_of_it(page: Page) -> None:
    """And of marks that nothing ends: what looks for their ends again and again would take hours."""
    marks = ["*", "**x\n", "_a", "[", "[a](", "`", "``x`", "> ", "- ", "|-|\n", "#", "```\n", "h", "~~"]
    keep(page, [said("q", "user"), *(said(mark * (70_000 // len(mark))) for mark in marks), said(HOSTILE * 1000)])
    assert page.evaluate("window.hacked") is None


def test_typing_leaves_a_long_chat_alone(page: Page) -> None:
    keep(page, [said(f"message {i} with *some* `text`", "user" if i % 2 == 0 else "assistant") for i in range(500)])
    page.evaluate(
        """() => {
            window.changes = 0;
            const options = { childList: true, subtree: true, attributes: true, characterData: true };
            new MutationObserver((list) => (window.changes += list.length)).observe(document.body, options);
        }"""
    )
    page.get_by_role("textbox", name="Question").press_sequentially("hello")
    assert page.evaluate("window.changes") == 0


@pytest.mark.parametrize("width", [1280, 768, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screen_readers(page: Page, width: int, scheme: Any) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    keep(
        page, [said("What?", "user"), said("# A\n\n- b\n\n```\ncode\n```\n\n[c](https://d.example) שלום", thought="Hm")]
    )
    for opened in ("nothing", "Settings", "Delete this chat"):
        if opened != "nothing":
            page.get_by_role("button", name=opened).click()
        found = Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
        page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_keys_alone(page: Page) -> None:
    """The question has the focus; everything else is reached by Tab and Enter."""

    def reach(name: str) -> None:
        for _ in range(40):
            if (
                page.evaluate(
                    "(document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent).trim()"
                )
                == name
            ):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{name} is not reached")

    page.get_by_role("textbox", name="Question").focus()
    page.keyboard.type("What is 47 + 38?")
    page.keyboard.press("Enter")
    answer(page, "47 + 38 = 85")
    reach("Try again")
    page.keyboard.press("Enter")
    answer(page, "47 + 38 = 85")
    reach("Settings")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="This chat")).to_be_visible()
    page.keyboard.press("Escape")
    reach("New chat")
    page.keyboard.press("Enter")
    expect(page.locator(".message")).to_have_count(0)
    expect(page.get_by_role("textbox", name="Question")).to_be_focused()


def test_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.get_by_role("button", name="New chat")).to_be_hidden()
    ask(page, "What is 47 + 38?")
    answer(page, "47 + 38 = 85")
    page.get_by_role("button", name="Chats").click()
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("button", name="New chat")).to_be_hidden()
    expect(page.locator(".message")).to_have_count(0)


def test_right_to_left(page: Page) -> None:
    keep(page, [said("שלום עולם", "user"), said("שלום\n\nHello")])
    directions = page.locator(".body, .body p").evaluate_all(
        "(all) => all.map((node) => getComputedStyle(node).direction)"
    )
    assert directions == ["rtl", "ltr", "rtl", "ltr"]
