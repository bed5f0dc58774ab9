"""What outlives the process: beginnings of prompts come back from disk, and never change an answer."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma4gguf import Gemma4, InputError, Result
from gemma4gguf.runtime.disk import Disk, identity
from gemma4gguf.runtime.session import Key

DIGITS = Path(__file__).parents[1] / "models" / "demo" / "digits.png"
SYSTEM = "Be brief, and never say more than you were asked for. " * 12
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
EXACT: dict[str, Any] = {
    "context": 2048,
    "threads": 1,
    "draft": "off",
    "kv_type": "f32",
    "flash_attention": "off",
}


def ask(bundle: Path, question: str, folder: Path | None, **how: Any) -> Result:
    """The answer of a model of its own, as after a restart."""
    with Gemma4(bundle, cache_dir=folder, **{**EXACT, **how}) as model:
        return model.generate(question, system=SYSTEM, **GREEDY)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.state"))


def begun(bundle: Path, question: str, folder: Path | None) -> tuple[Result, Any]:
    """As `ask`, for one token, and its logits. Tiny never learnt such a long system prompt, so its answer is chance."""
    with Gemma4(bundle, cache_dir=folder, **EXACT) as model:
        result = model.generate(question, system=SYSTEM, temperature=0, max_tokens=1)
        return result, model.engine.session.context.logits().copy()


def test_a_system_prompt_is_read_from_disk_after_a_restart(tiny_bundle: Path, tmp_path: Path) -> None:
    questions = "What is 47 + 38?", "What is 3 + 4?"
    cold = [begun(tiny_bundle, question, None)[1] for question in questions]
    (first, stored), (again, restored) = (begun(tiny_bundle, question, tmp_path) for question in questions)
    for logits, expected in zip((stored, restored), cold, strict=True):
        seen = np.isfinite(expected)
        # in Q8_0 the last bits depend on how many rows are read at once: up to 0.03; another question is 7 apart
        assert np.abs(logits[seen] - expected[seen]).max() < 0.1
    assert first.tokens.reused == 0
    assert again.tokens.prompt - again.tokens.reused < 30, "all but the question"
    assert files(tmp_path)
    assert {path.parent.stat().st_mode & 0o77 for path in files(tmp_path)} == {0}, "for nobody else to read"


def test_a_prompt_is_on_disk_before_the_model_is_closed(tiny_bundle: Path, tmp_path: Path) -> None:
    with Gemma4(tiny_bundle, cache_dir=tmp_path, **EXACT) as model:
        model.generate("Hi", system=SYSTEM, **GREEDY)
        disk = model.engine.scheduler.places.disk
        assert disk
        disk.flush()
        assert len(files(tmp_path)) == 1


def test_a_conversation_with_a_picture_goes_on_in_another_process(tiny_bundle: Path, tmp_path: Path) -> None:
    folder, saved = tmp_path / "cache", tmp_path / "chat.json"
    with Gemma4(tiny_bundle, cache_dir=folder, **EXACT) as model:
        chat = model.conversation(system=SYSTEM)
        chat.say("What number is this?", images=DIGITS, **GREEDY)
        chat.save(saved)
    with Gemma4(tiny_bundle, cache_dir=folder, **EXACT) as model, Gemma4(tiny_bundle, **EXACT) as cold:
        result = model.open_conversation(saved).say("And what is 3 + 4?", **GREEDY)
        warm_logits = model.engine.session.context.logits().copy()
        expected = cold.open_conversation(saved).say("And what is 3 + 4?", **GREEDY)
        assert result.text == expected.text
        assert result.tokens.reused > result.tokens.image + 100
        seen = np.isfinite(warm_logits)
        assert np.abs(cold.engine.session.context.logits()[seen] - warm_logits[seen]).max() < 1e-3


@pytest.mark.parametrize("damage", ["state", "cut", "header", "empty"])
def test_damaged_files_are_removed_and_change_nothing(tiny_bundle: Path, tmp_path: Path, damage: str) -> None:
    expected = ask(tiny_bundle, "Hi", tmp_path).text
    other = files(tmp_path)[0].parent / "notes.txt"
    other.write_text("mine")
    for path in files(tmp_path):
        data = bytearray(path.read_bytes())
        if damage == "state":
            data[-100] ^= 1
        elif damage == "header":
            data[20] ^= 0x80
        kept = {"cut": len(data) // 2, "empty": 0}.get(damage, len(data))
        path.write_bytes(data[:kept])
    before = files(tmp_path)
    with Gemma4(tiny_bundle, cache_dir=tmp_path, **EXACT) as model:
        result = model.generate("Hi", system=SYSTEM, **GREEDY)
        assert (result.text, result.tokens.reused) == (expected, 0)
    assert ask(tiny_bundle, "Hi", tmp_path).tokens.reused > 100, f"written anew: {before}"
    assert other.read_text() == "mine"


def test_another_kind_of_cache_or_another_model_does_not_see_it(
    tiny_bundle: Path, bundle: Path, tmp_path: Path
) -> None:
    ask(tiny_bundle, "Hi", tmp_path)
    assert ask(tiny_bundle, "Hi", tmp_path, kv_type="f16").tokens.reused == 0
    assert ask(tiny_bundle, "Hi", tmp_path, parallel=2).tokens.reused == 0
    with Gemma4(tiny_bundle) as one, Gemma4(bundle) as other:
        assert identity(one.bundle, one.engine.options.context) != identity(other.bundle, one.engine.options.context)


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    keys: list[list[Key]] = [[number, (b"picture", 0), (b"picture", 1), 5] for number in range(4)]
    disk = Disk(tmp_path, "one", 3500)
    for number in range(3):
        disk.write(keys[number], bytes(1000))
    disk.flush()
    assert {stored.held for stored in disk.stored} == {tuple(key) for key in keys[:3]}
    for stored in disk.stored:
        os.utime(stored.path, (stored.held[0], stored.held[0]))  # type: ignore[arg-type]
    first = next(stored for stored in disk.stored if stored.held == tuple(keys[0]))
    assert disk.read(first) == bytes(1000)
    other = Disk(tmp_path, "two", 3500)  # another engine's files count, too
    other.write(keys[3], bytes(1000))
    other.write(keys[2], bytes(4000))
    other.close()
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 3500
    assert disk.read(first) == bytes(1000), "used last"
    gone = [stored for stored in disk.stored if disk.read(stored) is None]
    assert [stored.held for stored in gone] == [tuple(keys[1])]
    disk.close()


def test_what_cannot_be_written_is_a_warning(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    model = Gemma4(tiny_bundle, cache_dir=folder, **EXACT)
    folder.write_text("in the way")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert model.generate("Hi", system=SYSTEM, **GREEDY).text
        model.close()
    assert any("cache_dir" in str(one.message) for one in seen)
    with pytest.raises(InputError, match=r"cache_dir is .* expected a folder"):
        Gemma4(tiny_bundle, cache_dir=folder)
