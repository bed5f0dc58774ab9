"""`Gemma4` as people call it: answers, streams, limits, and what goes wrong."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from gemma4gguf import Gemma4
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.errors import ContextError, FormatError, InputError, MissingPartError, NativeError
from gemma4gguf.media.image import soft_tokens
from gemma4gguf.runtime.engine import Engine, EngineOptions
from gemma4gguf.runtime.options import Options

MODELS = Path(__file__).parent.parent / "models"
CAT = MODELS / "demo" / "cat.jpg"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
TONE = (np.sin(np.arange(12_345) / 9).astype(np.float32) * 0.5, 16_000)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=2048, threads=1) as model:
        yield model


def test_a_stream_adds_up_to_the_whole_answer(model: Gemma4) -> None:
    whole = model.generate("Who are you?", **GREEDY)
    chunks = list(model.stream("Who are you?", **GREEDY))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    last = chunks[-1]
    assert last.result is not None
    assert (last.finish_reason, last.result.text) == (whole.finish_reason, whole.text)
    assert whole.text


def test_greedy_answers_do_not_depend_on_what_was_asked_before(tiny_bundle: Path, model: Gemma4) -> None:
    france = "What is the capital of France?"
    prompts = [france, "Repeat: " + "the red cat " * 60, "What is in this picture?", "What can you do?", france]
    later = [model.generate(p, images=[CAT] * (i == 2), **GREEDY).text for i, p in enumerate(prompts)]
    for i, (prompt, text) in enumerate(zip(prompts, later, strict=True)):
        with Gemma4(tiny_bundle, context=2048, threads=1) as fresh:
            assert fresh.generate(prompt, images=[CAT] * (i == 2), **GREEDY).text == text


def test_counts(model: Gemma4) -> None:
    result = model.generate("What is this?", images=[CAT], audio=[TONE], **GREEDY)
    seen = soft_tokens(451, 300, 70)
    assert result.tokens.image == seen
    assert result.tokens.audio == -(-12_345 // 640)
    text = model.generate("What is this?", **GREEDY).tokens.prompt
    assert result.tokens.prompt == text + seen + 20 + 4  # soft tokens and the two pairs of markers


def test_a_second_turn_reuses_the_cache(model: Gemma4) -> None:
    history = [{"role": "user", "content": [{"type": "image", "image": CAT}, {"type": "text", "text": "What?"}]}]
    first = model.chat(history, local_files=True, **GREEDY)
    again = model.chat(history, local_files=True, **GREEDY)
    assert again.tokens.reused == first.tokens.prompt - 1
    assert again.text == first.text
    other = model.chat([{"role": "user", "content": "What?"}], **GREEDY)
    assert other.tokens.reused < 10


def test_another_picture_of_the_same_size_is_not_taken_from_the_cache(model: Gemma4) -> None:
    grey = np.full((300, 451, 3), 128, np.uint8)
    answers = [model.evaluate("<|image|>What?", images=[image], raw=True).logits[-1] for image in (CAT, grey)]
    assert np.abs(answers[0] - answers[1]).max() > 0.1
    one = model.generate("What?", images=[CAT], **GREEDY)
    two = model.generate("What?", images=[grey], **GREEDY)
    assert two.tokens.reused < one.tokens.prompt - soft_tokens(451, 300, 70)


def test_the_seed_decides(model: Gemma4) -> None:
    how: dict[str, Any] = {"temperature": 4.0, "max_tokens": 12}
    model.generate("Hello", **how)  # from here on each call evaluates the same rows, so the arithmetic is the same
    texts = [model.generate("Hello", seed=seed, **how).text for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1
    drawn = model.generate("Hello", **how)
    assert model.generate("Hello", seed=drawn.seed, **how).text == drawn.text


def test_a_stop_string_ends_the_answer_before_it(model: Gemma4) -> None:
    whole = model.generate("Who are you?", **GREEDY).text
    stop = whole[3:6]
    result = model.generate("Who are you?", stop=stop, **GREEDY)
    assert result.text == whole[: whole.index(stop)]
    assert result.finish_reason == "stop"


def test_suppressed_tokens_never_appear(model: Gemma4) -> None:
    """With every other token forbidden by its logit's sign: the sampler itself must hold the line."""
    result = model.generate("Hello", temperature=50.0, top_k=0, top_p=1.0, max_tokens=300, seed=4)
    assert not any(mark in result.text for mark in ("<|image|>", "<image|>", "<audio|>", "<|audio|>", "<|video|>"))


def test_an_abandoned_stream_leaves_the_model_usable(model: Gemma4) -> None:
    expected = model.generate("Who are you?", **GREEDY).text
    for left_after in (1, 3):
        stream = model.stream("What can you do?", **GREEDY)
        for _ in range(left_after):
            next(stream)
        stream.close()
        assert model.generate("Who are you?", **GREEDY).text == expected


def test_exactly_one_bos(model: Gemma4) -> None:
    ids = model.evaluate("Hi").ids
    assert list(ids).count(2) == 1
    assert ids[0] == 2
    for prompt in ("Hi", "<bos>Hi", "<bos><bos>Hi"):
        ids = model.evaluate(prompt, raw=True).ids
        assert list(ids[:2]).count(2) == 1


def test_max_tokens_ends_at_the_context(bundle: Path) -> None:
    with Gemma4(bundle, context=64) as model:
        result = model.generate("Hello", temperature=0)
        assert result.finish_reason in ("length", "stop")
        assert result.tokens.prompt + result.tokens.completion <= 65  # the last token needs no place


@pytest.mark.parametrize("budget", [70, 1120])
def test_any_budget_fits_its_micro_batch(bundle: Path, budget: int) -> None:
    with Gemma4(bundle, context=2048, image_tokens=budget) as model:
        assert model.generate("What?", images=[CAT], **GREEDY).tokens.image == soft_tokens(451, 300, budget)


MISTAKES: dict[str, tuple[type[Exception], Callable[[Any], object], str]] = {  # calls that are wrong on purpose
    "prompt too long": (ContextError, lambda m: m.generate("word " * 5000), "context=N"),
    "unknown option": (InputError, lambda m: m.generate("Hi", temprature=1), "temperature"),
    "negative": (InputError, lambda m: m.generate("Hi", max_tokens=-1), "max_tokens"),
    "top_p": (InputError, lambda m: m.generate("Hi", top_p=0), "top_p"),
    "not a number": (InputError, lambda m: m.generate("Hi", temperature="hot"), "temperature"),
    "empty stop": (InputError, lambda m: m.generate("Hi", stop=[""]), "stop"),
    "no picture": (InputError, lambda m: m.generate("Hi", images=["nowhere.png"]), "nowhere.png"),
    "no such role": (InputError, lambda m: m.chat([{"role": "boss", "content": "Hi"}]), "boss"),
    "placeholders": (InputError, lambda m: m.generate("<|image|>", raw=True), "image"),
    "raw and system": (InputError, lambda m: m.generate("Hi", raw=True, system="x"), "raw"),
    "half a token": (InputError, lambda m: m.generate("Hi", max_tokens=2.5), "max_tokens"),
    "half a seed": (InputError, lambda m: m.generate("Hi", seed=1.5), "seed"),
    "top_k of 33 bits": (InputError, lambda m: m.generate("Hi", top_k=(1 << 32) + 1), "top_k"),
    "stop that is none": (InputError, lambda m: m.generate("Hi", stop=5), "stop"),
    "web address": (
        InputError,
        lambda m: m.chat([{"role": "user", "content": [{"type": "image", "url": "https://example.com/a.png"}]}]),
        "https",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_one_line_and_lose_nothing(model: Gemma4, name: str) -> None:
    kind, action, word = MISTAKES[name]
    expected = model.generate("Who are you?", **GREEDY).text
    with pytest.raises(kind) as caught:
        action(model)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert model.generate("Who are you?", **GREEDY).text == expected


def test_opening_mistakes(bundle: Path, tmp_path: Path) -> None:
    for how, word in (
        ({"context": 0}, "context"),
        ({"context": 1 << 30}, "at most"),
        ({"kv_type": "q3"}, "q8_0"),
        ({"flash_attention": "maybe"}, "auto"),
        ({"image_tokens": 100}, "280"),
        ({"image_tokens": 0}, "280"),
        ({"threads": 0}, "threads"),
        ({"threads": "4"}, "threads"),
        ({"context": 300.5}, "context"),
        ({"gpu_layers": "all"}, "gpu_layers"),
    ):
        with pytest.raises(InputError, match=word):
            Gemma4(bundle, **how)
    with pytest.raises(InputError, match="no such file"):
        Gemma4(tmp_path / "nowhere.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(bundle.read_bytes()[:1_000_000])
    with pytest.raises(FormatError, match="truncated"):
        Gemma4(cut)


def test_a_text_only_bundle_refuses_pictures_before_any_work(make_bundle: Callable[..., Path]) -> None:
    with Gemma4(make_bundle("Q8_0", text_only=True)) as model:
        with pytest.raises(MissingPartError, match="no multimodal embedder"):
            model.generate("What?", images=[CAT])
        assert not model._parts.loaded, "nothing was loaded for a question that cannot be answered"
        assert model.generate("Hello", **GREEDY).text


def test_damage_that_llama_cpp_would_refuse_is_told_when_the_file_is_opened(bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    shutil.copy(bundle, broken)
    broken.write_bytes(broken.read_bytes().replace(b"tokenizer.ggml.merges", b"tokenizer.ggml.merged", 1))
    with pytest.raises(FormatError, match="merges"):
        Gemma4(broken)


def test_a_closed_model_says_so(bundle: Path) -> None:
    model = Gemma4(bundle)
    model.close()
    with pytest.raises(InputError, match="closed"):
        model.generate("Hi")


@pytest.mark.parametrize("draft", ["off", 3])
def test_a_stream_of_a_closed_model_says_so(tiny_bundle: Path, draft: Literal["off"] | int) -> None:
    with Gemma4(tiny_bundle, threads=1, draft=draft) as model:
        suspended, unstarted = model.stream("Who are you?", **GREEDY), model.stream("Who are you?", **GREEDY)
        next(suspended)
    for stream in (suspended, unstarted):
        with pytest.raises(InputError, match="closed"):
            list(stream)


def together(*actions: Callable[[], object]) -> list[object]:
    """What each returns or raises, started at the same moment on threads of their own."""
    start = threading.Barrier(len(actions))

    def run(action: Callable[[], object]) -> object:
        start.wait()
        try:
            return action()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


def test_closing_while_another_thread_asks(tiny_bundle: Path) -> None:
    for delay in (0, 0.01, 0.05, 0.1):
        model = Gemma4(tiny_bundle, threads=1, draft=2)

        def ask(model: Gemma4 = model) -> object:
            while True:
                model.generate("Who are you?", **GREEDY)

        def close(model: Gemma4 = model, delay: float = delay) -> None:
            time.sleep(delay)
            model.close()

        asked, closed = together(ask, close)
        assert isinstance(asked, (InputError, NativeError))
        assert "closed" in str(asked)
        assert closed is None


def test_threads_share_one_copy_of_the_weights_and_take_turns(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gemma4(tiny_bundle, threads=1, draft=3) as expected:
        text, logits = expected.generate("Who are you?", **GREEDY).text, expected.evaluate("Who are you?").logits
    made: list[Engine] = []

    class Counted(Engine):
        def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
            super().__init__(bundle, options)
            made.append(self)

    monkeypatch.setattr("gemma4gguf.model.Engine", Counted)
    for _ in range(5):
        with Gemma4(tiny_bundle, threads=1, draft=3) as model:
            made.clear()
            for answer in together(*[lambda m=model: m.generate("Who are you?", **GREEDY).text] * 3):
                assert answer == text or "another" in str(answer)
            for answer in together(*[lambda m=model: m.evaluate("Who are you?").logits] * 3):
                assert "another thread" in str(answer) or np.array_equal(answer, logits)  # type: ignore[arg-type]
            assert len(made) == 1


def test_a_thought_that_the_raw_prompt_opens_is_a_thought(model: Gemma4) -> None:
    chat = "<|turn>user\nWhat is 47 + 38?<turn|>\n<|turn>model\n<|channel>thought\n"
    result = model.generate(chat, raw=True, temperature=0, max_tokens=60)
    assert result.thought
    assert "<channel|>" not in result.text


def test_times_leave_out_what_the_caller_does(model: Gemma4) -> None:
    model.generate("Who are you?", **GREEDY)
    begun = time.perf_counter()
    timings = None
    for chunk in model.stream("Who are you?", **GREEDY):
        time.sleep(0.05)
        timings = chunk.result and chunk.result.timings
    assert timings
    waited = time.perf_counter() - begun
    assert timings.decode_s < waited / 2, "the answer is made while the caller does something else"
    assert timings.load_s == 0, "an earlier answer waited for the weights"


def test_numbers_of_any_library_and_no_stop_at_all(model: Gemma4) -> None:
    result = model.generate("Who are you?", temperature=np.float32(0), max_tokens=np.int64(3), stop=None)
    assert result.tokens.completion == 3


def test_damaged_weights_are_told_whatever_the_temperature(tiny_bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "nan.gguf"
    data = bytearray(tiny_bundle.read_bytes())
    norm = Bundle.open(tiny_bundle).text.raw("output_norm.weight").tobytes()
    at = data.index(norm)
    data[at : at + len(norm)] = np.full(len(norm) // 4, np.nan, "<f4").tobytes()
    broken.write_bytes(data)
    with Gemma4(broken, threads=1) as model:
        for temperature in (0, 1):
            with pytest.raises(NativeError, match="no finite logit"):
                model.generate("Hi", temperature=temperature, max_tokens=4)


def test_a_temperature_next_to_zero_is_greedy(model: Gemma4) -> None:
    greedy = model.generate("Who are you?", **GREEDY).text
    for temperature in (1e-39, 1e-300, 1e-7):
        assert model.generate("Who are you?", temperature=temperature, max_tokens=12).text == greedy


def test_the_example_in_the_readme_runs(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (MODELS.parent / "README.md").read_text(encoding="utf-8")
    code = readme.split("```python\n")[1].split("```")[0]
    named = {"gemma.gguf": tiny_bundle, "cat.jpg": CAT, "note.wav": MODELS / "demo" / "number.wav"}
    for name, path in named.items():
        assert name in code
        (tmp_path / name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_options_are_checked_where_they_are_made() -> None:
    assert Options.of({"stop": "x"}).stop == ("x",)
    with pytest.raises(InputError, match="seed"):
        Options(seed=-1)
