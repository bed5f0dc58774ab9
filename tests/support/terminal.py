"""A program in a real pseudo-terminal, and its screen as a person sees it."""

from __future__ import annotations

import os
import re
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pexpect
import pyte

PATIENCE_S = 120  # limits that only a hang can reach


class Terminal:
    """`gemma4gguf` with some arguments, in a window of a size. `environment` is added to this process's own."""

    def __init__(self, *arguments: str, columns: int = 80, home: Path, **environment: str) -> None:
        fixed = {"TERM": "linux", "HOME": str(home), "PROMPT_TOOLKIT_NO_CPR": "1", "LC_ALL": "C.UTF-8"}
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.raw = b""
        self._typed_at = 0
        self.echoes = True  # at the end: what is typed into the terminal shows again
        self._screen = pyte.Screen(columns, 40)
        self._stream = pyte.ByteStream(self._screen)
        self._child = pexpect.spawn(
            sys.executable,
            ["-m", "gemma4gguf", *arguments],
            dimensions=(40, columns),
            env={**kept, **fixed, **environment},
            timeout=PATIENCE_S,
        )
        self._child.delaybeforesend = None

    @property
    def screen(self) -> str:
        """What the window shows, without the space at its right and its bottom."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def type(self, keys: str) -> None:
        self._typed_at = len(self.raw)
        self._child.send(keys)

    def read(self) -> None:
        """Wait for something new, and show it. Raises EOF at the end, AssertionError with the screen for a hang."""
        try:
            data = self._child.read_nonblocking(4096, timeout=PATIENCE_S)
        except pexpect.TIMEOUT:
            raise AssertionError(f"nothing new for {PATIENCE_S} s:\n{self.screen}") from None
        self.raw += data
        self._stream.feed(data)

    def until(self, text: str, *, count: int = 1) -> str:
        """The screen, once it shows a text so many times."""
        while self.screen.count(text) < count:
            try:
                self.read()
            except pexpect.EOF:
                raise AssertionError(f"ended before {text!r}:\n{self.screen}") from None
        return self.screen

    def until_sent(self, pattern: bytes) -> None:
        """Wait until the program has sent what matches since keys were typed last, whether or not it still shows."""
        while not re.search(pattern, self.raw[self._typed_at :]):
            self.read()

    def kill(self, signal: int) -> None:
        self._child.kill(signal)

    def end(self) -> int:
        """The exit status, once the program has ended by itself; minus the signal's number where one ended it."""
        with suppress(pexpect.EOF):
            while True:
                self.read()
        self.echoes = bool(termios.tcgetattr(self._child.child_fd)[3] & termios.ECHO)
        self._child.close()
        return int(self._child.exitstatus if self._child.signalstatus is None else -self._child.signalstatus)
