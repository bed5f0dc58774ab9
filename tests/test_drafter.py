"""The drafter against the reference's golden logits, and how it loads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from gemma4gguf import Gemma4
from gemma4gguf.bundle.reading import DRAFTER, Bundle, Section
from gemma4gguf.bundle.validation import check_drafter
from gemma4gguf.chat.rendering import raw_segments
from gemma4gguf.cli import cli
from gemma4gguf.errors import FormatError, InputError, MissingPartError, NativeError
from gemma4gguf.media.embedder import Embedder
from gemma4gguf.native import context as native_context
from gemma4gguf.native import extensions
from gemma4gguf.native.context import Context, ContextOptions
from gemma4gguf.native.library import C
from gemma4gguf.native.weights import Weights
from gemma4gguf.records import DraftCounts
from gemma4gguf.runtime import engine
from gemma4gguf.runtime.drafter import Drafter, drafter_weights
from gemma4gguf.runtime.loading import in_place
from gemma4gguf.runtime.prompt import spans
from gemma4gguf.runtime.session import Session
from tests.support import cases

GOLDEN = np.load(Path(__file__).parent / "golden" / "drafts.npz")
DRAFTED = sorted({name.split(".")[0] for name in GOLDEN})
CASES = {case.name: case for case in cases.CASES}
STEPS = 4
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return Bundle.open(bundle)


@pytest.fixture(scope="module")
def weights(bundle: Path) -> Iterator[Weights]:
    with Weights(bundle) as model:
        yield model


@pytest.fixture
def beside(opened: Bundle, weights: Weights) -> Iterator[Callable[..., tuple[Session, Drafter]]]:
    """A function from cache options to a session with its drafter."""
    owned: list[Any] = []

    def make(**how: Any) -> tuple[Session, Drafter]:
        context = Context(weights, ContextOptions(2048, threads=1, **how), hidden=True)
        owned.append(context)
        drafter = Drafter(drafter_weights(opened.require(DRAFTER), opened.text), context)
        owned.append(drafter)
        return Session(context), drafter

    yield make
    for each in reversed(owned):
        each.close()


def drafted(opened: Bundle, session: Session, drafter: Drafter, name: str) -> tuple[int, list[npt.NDArray[np.float32]]]:
    """The target's greedy token after a case's prompt, and the drafter's logits of four chained steps."""
    case = CASES[name]
    parts = raw_segments(
        case.prompt, [cases.picture(n) for n in case.images], [(cases.clip(n), cases.RATE) for n in case.audio]
    )
    session.feed(spans(parts, session.context.model.vocab, lambda: Embedder(opened), 280))
    token = int(session.context.logits().argmax())
    guesses = drafter.guesses(token, session.context.hidden(), session.length)
    return token, [drafter._context.logits().copy() for _ in zip(range(STEPS), guesses, strict=False)]


@pytest.mark.parametrize("name", DRAFTED)
def test_drafts_are_the_references(opened: Bundle, beside: Callable[..., tuple[Session, Drafter]], name: str) -> None:
    """Its logits, over four chained steps. llama.cpp's sliding layers see one position less than the window."""
    token, logits = drafted(opened, *beside(kv_type="f32", flash_attention="off"), name)
    assert token == GOLDEN[f"{name}.token"]
    for found, expected in zip(logits, GOLDEN[f"{name}.logits_window_63"], strict=True):
        assert np.abs(found - expected).max() < 0.03
        assert found.argmax() == expected.argmax()


@pytest.mark.parametrize(("kv_type", "flash_attention"), [("f16", "on"), ("f16", "off"), ("q8_0", "auto")])
def test_drafts_read_any_cache(
    opened: Bundle, beside: Callable[..., tuple[Session, Drafter]], kv_type: str, flash_attention: str
) -> None:
    """A drafter that read a quantised or transposed cache wrongly would say something else altogether."""
    session, drafter = beside(kv_type=kv_type, flash_attention=flash_attention)
    for name in ("text", "image", "audio"):
        token, logits = drafted(opened, session, drafter, name)
        assert token == GOLDEN[f"{name}.token"]
        for found, expected in zip(logits[:2], GOLDEN[f"{name}.logits_window_63"], strict=False):
            assert np.corrcoef(found, expected)[0, 1] > (0.98 if kv_type == "q8_0" else 0.999)


def test_the_drafter_loads_where_it_lies_or_from_a_copy(opened: Bundle, weights: Weights) -> None:
    section = opened.require(DRAFTER)
    with section.open() as file, in_place(section, file, copy=False) as (path, offset, descriptor):
        assert (path, offset, descriptor) == (section.path, section.offset, file.fileno())
    with section.open() as file, in_place(section, file, copy=True) as (path, offset, descriptor):
        assert (offset, descriptor) == (0, None)
        assert path.read_bytes() == b"".join(bytes(piece) for piece in section.copy())
        with Weights(path) as copied, Weights(section.path, offset=section.offset) as placed:
            assert copied.n_embd == placed.n_embd == weights.n_embd
    assert not path.exists()


def altered(section: Section, **values: Any) -> Section:
    """The section with other metadata."""
    metadata = {**section.metadata, **{f"{section.architecture}.{key}": value for key, value in values.items()}}
    return replace(section, header=replace(section.header, metadata=metadata))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"embedding_length_out": 512}, "width 512, .* has 256"),
        ({"attention.key_length": 64}, "attention.key_length: 64, 128"),
        ({"attention.value_length_swa": 32}, "value_length_swa"),
        ({"attention.sliding_window": 32}, "sliding_window: 32, 64"),
        ({"rope.freq_base": None}, "rope.freq_base: None"),
        ({"rope.freq_base": [1e-45] * 600}, "rope.freq_base: .*not one model"),
        ({"attention.head_count_kv": [2, 2, 2, 2]}, "layer 3 is full with 2 key heads"),
        ({"attention.head_count_kv": 2}, "layer 3 is full with 2 key heads"),
        ({"attention.head_count_kv": None}, "None key heads"),
        ({"attention.sliding_window_pattern": [True] * 4}, "layer 3 is sliding with 1 key heads"),
    ],
)
def test_a_drafter_of_another_model_is_refused_before_c_sees_it(
    opened: Bundle, values: dict[str, Any], word: str
) -> None:
    section = opened.require(DRAFTER)
    check_drafter(opened.text, section)
    with pytest.raises(FormatError, match=word) as error:
        check_drafter(opened.text, altered(section, **values))
    assert len(str(error.value)) < 800


def test_another_vocabulary_is_refused(opened: Bundle) -> None:
    section = opened.require(DRAFTER)
    tensors = {**section.tensors}
    tensors["token_embd.weight"] = replace(tensors["token_embd.weight"], shape=(1000, 128))
    with pytest.raises(FormatError, match=r"token_embd.weight has shape \[1000, 128\], expected \[1024, 128\]"):
        check_drafter(opened.text, replace(section, header=replace(section.header, tensors=tensors)))


@pytest.mark.parametrize("name", list(extensions._EXTENSIONS))
def test_a_library_without_a_function_decodes_without_drafts(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with Gemma4(bundle, context=512, threads=1, draft="off") as model:
        expected = model.generate("Hello there", **GREEDY)
    there = extensions.extension
    for module in (extensions, native_context):
        monkeypatch.setattr(module, "extension", lambda asked: None if asked == name else there(asked))
    with Gemma4(bundle, context=512, threads=1) as model, pytest.warns(UserWarning, match="lacks") as told:
        result = model.generate("Hello there", **GREEDY)
    assert name in str(told[0].message)
    assert "\n" not in str(told[0].message)
    assert (result.text, result.draft.proposed) == (expected.text, 0)
    with Gemma4(bundle, context=512, threads=1, draft=2) as model, pytest.raises(NativeError, match=name):
        model.generate("Hello there", **GREEDY)


def test_a_bundle_without_a_drafter(make_bundle: Callable[..., Path]) -> None:
    path = make_bundle("F32", drafter=None)
    with Gemma4(path, context=512, threads=1) as model:
        assert model.generate("Hello there", **GREEDY).draft == DraftCounts()
    with pytest.raises(MissingPartError, match="no MTP drafter"):
        Gemma4(path, draft=3)


@pytest.mark.parametrize("draft", ["on", -1, 16, 1.5, "3"])
def test_draft_lengths_that_there_are_not(bundle: Path, draft: Any) -> None:
    with pytest.raises(InputError, match="auto, off or a number up to 15"):
        Gemma4(bundle, draft=draft)


def test_two_models_in_one_process(bundle: Path) -> None:
    """Each with a drafter bound to its own cache, asked in turn, closed in either order."""
    with Gemma4(bundle, context=512, threads=1, draft="off") as plain:
        expected = [plain.generate(question, **GREEDY).text for question in ("One", "Two, that is")]
    for order in (1, -1):
        models = [Gemma4(bundle, context=512, threads=1, draft=2) for _ in range(2)]
        streams = [m.stream(q, **GREEDY) for m, q in zip(models, ("One", "Two, that is"), strict=True)]
        texts = ["", ""]
        for chunks in zip_longest(*streams):
            for i, chunk in enumerate(chunks):
                texts[i] += chunk.text if chunk else ""
        assert texts == expected
        for model in models[::order]:
            model.close()


def test_the_command_line_takes_a_draft_length(bundle: Path) -> None:
    arguments = [
        "generate",
        str(bundle),
        "-p",
        "Hi",
        "--threads",
        "1",
        "--context",
        "256",
        "--max-tokens",
        "6",
        "--json",
    ]
    for draft, proposes in (("2", True), ("off", False), ("auto", None)):
        result = CliRunner().invoke(cli, [*arguments, "--max-tokens", "6", "--draft", draft])
        assert result.exit_code == 0, result.output
        counts = json.loads(result.stdout)["draft"]
        assert {"steps", "proposed", "accepted"} <= set(counts)
        assert proposes is None or proposes == (counts["proposed"] > 0)


def test_its_vocabulary_is_its_targets_and_not_read_again(opened: Bundle, weights: Weights) -> None:
    with drafter_weights(opened.require(DRAFTER), opened.text) as own:
        assert own.vocab.size == weights.vocab.size
        assert C.llama_vocab_type(own.vocab._handle) == C.LLAMA_VOCAB_TYPE_NONE


def test_a_model_that_cannot_be_loaded_takes_its_drafter_with_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Weights] = []

    def watched(*parts: Any, **how: Any) -> Weights:
        made.append(drafter_weights(*parts, **how))
        return made[0]

    monkeypatch.setattr(engine, "drafter_weights", watched)
    with pytest.raises(InputError, match="q8_0"), Gemma4(bundle, kv_type="q8_0", flash_attention="off") as model:
        model.generate("Hello there", **GREEDY)
    assert len(made) == 1
    with pytest.raises(NativeError, match="closed"):
        _ = made[0].handle
