"""The Chromium that drives the page: what CHROMIUM names, else the first of the usual names on the PATH."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")  # as in scripts/chromium


def program() -> str:
    found = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *NAMES))), None)
    assert found, "no Chromium: install it (on Debian: apt-get install chromium), or set CHROMIUM"
    return found
