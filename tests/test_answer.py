"""Answers of the whole model: they do not depend on drafting, and many of them leave memory flat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from gemma4gguf import DraftCounts, Gemma4
from tests.support import cases
from tests.support.private import resident_mb

CAT = Path(__file__).parent.parent / "models" / "demo" / "cat.jpg"
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("Hello there", {}),
    ("What is this?", {"images": [CAT]}),
    ("And what is said?", {"audio": [(cases.clip("short"), cases.RATE)]}),
    ("Both", {"images": [cases.picture("banner")], "audio": [(cases.clip("short"), cases.RATE)]}),
    ("Hello there, once more", {"system": "Be brief.", "thinking": True}),
]


@pytest.mark.parametrize("draft", ["auto", 3])
def test_answers_do_not_depend_on_drafting(small: Path, draft: Literal["auto"] | int) -> None:
    with (
        Gemma4(small, context=2048, threads=1, image_tokens=70, draft="off") as plain,
        Gemma4(small, context=2048, threads=1, image_tokens=70, draft=draft) as model,
    ):
        for prompt, how in ASKED:
            for temperature in (0.0, 0.8):
                how = {**how, "temperature": temperature, "seed": 5, "max_tokens": 24}
                expected, found = plain.generate(prompt, **how), model.generate(prompt, **how)
                assert (found.text, found.thought, found.finish_reason, found.tokens.completion) == (
                    *(expected.text, expected.thought, expected.finish_reason, expected.tokens.completion),
                )
                assert found.draft.steps >= 1
                assert expected.draft == DraftCounts()


def test_a_stop_string_inside_a_draft(bundle: Path) -> None:
    with Gemma4(bundle, context=1024, threads=1, draft=6) as model:
        how: dict[str, Any] = {"temperature": 0, "max_tokens": 20}
        whole = model.generate("Hello there", **how)
        held = model.engine.session._held[whole.tokens.prompt :]
        ids = [int(i) for i in held if not isinstance(i, tuple)]

        class Knowing:
            def of(self, sequence: int) -> Knowing:
                return self

            def guesses(self, token: int, hidden: Any, position: int) -> Iterator[tuple[int, float]]:
                yield from ((i, 1.0) for i in [*ids[position - whole.tokens.prompt + 1 :], *[5] * 20])

        own, model.engine.drafter = model.engine.drafter, Knowing()  # type: ignore[assignment]
        for at in range(3, 8):
            stop = whole.text[at : at + 3]
            result = model.generate("Hello there", stop=stop, **how)
            assert result.text == whole.text[: whole.text.index(stop)]
            assert result.finish_reason == "stop"
        again = model.generate("Hello there", **how)
        assert again.text == whole.text
        assert again.draft.accepted > 10
        model.engine.drafter = own


def test_many_prompts_leave_memory_flat(bundle: Path) -> None:
    """Media among them, streams left early, every other answer drafted."""
    with Gemma4(bundle, context=1024, threads=1, image_tokens=70, draft=3, cache_memory=1 << 20) as model:
        used = []
        for i in range(60):
            prompt, how = ASKED[i % len(ASKED)]
            chunks = model.stream(f"{i} {prompt}", temperature=0, max_tokens=6, **how)
            if i % 7 == 0:
                next(chunks)
                chunks.close()
            else:
                list(chunks)
            used.append(resident_mb())
        assert max(used[-10:]) - max(used[20:40]) < 4
