#!/usr/bin/env python3
"""How quick the page is with a long chat: a keystroke's time from the key to the picture on the screen.

    benchmarks/page.py [--messages 500] [--keys 40]

Prints one JSON object: milliseconds of every keystroke, their median and the longest. The small model is served, so
that the page is as it always is; nobody asks it anything. Needs the extras dev and browser, and a Chromium.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf.cli.bundled import converted  # noqa: E402
from tests.support import chromium  # noqa: E402
from tests.support.serving import serving  # noqa: E402

FILL = """async (count) => {
    const { Store, newChat } = await import("/store.js");
    const text = "A message with *some* `code`, a list:\\n\\n- one\\n- two\\n\\n```\\nand a block\\n```\\n".repeat(4);
    const messages = Array.from({ length: count }, (_, i) => (
        { role: i % 2 ? "assistant" : "user", text: `${i}: ${text}`, thought: "", calls: [], media: [] }));
    await (await Store.open()).put({ ...newChat(), title: "long", messages });
}"""
# From the key to the second frame after it: by then what it changed is on the screen.
TIMED = """() => {
    window.taken = [];
    document.getElementById("text").addEventListener("keydown", () => {
        const begun = performance.now();
        requestAnimationFrame(() => requestAnimationFrame(() => window.taken.push(performance.now() - begun)));
    });
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--keys", type=int, default=40)
    given = parser.parse_args()
    from playwright.sync_api import expect, sync_playwright  # here, so that --help does without the extra

    with converted() as (bundle, _), serving(bundle) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.program(), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(server.url)
        page.evaluate(FILL, given.messages)
        page.reload()
        expect(page.locator(".message")).to_have_count(given.messages, timeout=60_000)
        page.evaluate(TIMED)
        text = page.get_by_role("textbox", name="Question")
        for number in range(given.keys):
            text.press("abcde"[number % 5])
            page.wait_for_function("(count) => window.taken.length === count", arg=number + 1)
        taken = page.evaluate("window.taken")
    print(json.dumps({"ms": [round(t, 1) for t in taken], "median": statistics.median(taken), "longest": max(taken)}))


if __name__ == "__main__":
    main()
