"""The tasks that held-out figures are of, by name. An example's kind tells more: that it thinks, or asks for when."""

from __future__ import annotations

from functools import partial

from . import texts, watching

TASKS: dict[str, texts.Make] = {
    **{f"row{n}": partial(texts.row, count=n, think=False) for n in (1, 2, 3, 4)},
    "see": texts.see,
    "see_two": texts.see_two,
    "photo": texts.photo,
    "hear": texts.hear,
    "watch": watching.watch,
    "watch_long": partial(watching.watch, long=True),
    "watch_known": partial(watching.watch, known=True),
    "watch_long_known": partial(watching.watch, long=True, known=True),
    "watch_hear": watching.watch_hear,
    "sum": texts.total,
    "sum_think": partial(texts.total, think=True),
    "tool": texts.use_tool,
    "talk": texts.talk,
}
