"""What many tests share: the random stand-in checkpoint, and bundles made of it, once per run."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from converters import convert
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.bundle.writing import part_of, write_bundle
from gemma4gguf.native.context import Context, ContextOptions
from gemma4gguf.native.weights import Weights
from gemma4gguf.runtime.session import Session
from tests.support import standin
from tests.support.bundles import PARTS
from tests.support.hub import Hub, serving
from tests.support.parts import save
from tests.support.published import Layout, Published

MODELS = Path(__file__).parent.parent / "models"


def pytest_configure() -> None:
    """A shell ignores Ctrl-C for jobs in its background; whatever a test starts would ignore it, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in checkpoint: Gemma 4's structure in small, random weights."""
    return standin.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "standin")


@pytest.fixture(scope="session")
def drafter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in's drafter."""
    return standin.write_drafter(tmp_path_factory.mktemp("drafter") / "standin-assistant")


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, drafter: Path) -> Callable[..., Path]:
    """A function from conversion options to a bundle of the stand-in; the same options give the same file."""
    folder = tmp_path_factory.mktemp("bundles")
    made: dict[str, Path] = {}

    def make(quant: str = "F32", **how: object) -> Path:
        key = "-".join([quant, *(f"{name}={how[name]}" for name in sorted(how))])
        if key not in made:
            options: dict[str, Any] = {"drafter": drafter, "drafter_quant": "F32", **how}
            out = folder / f"{len(made)}.gguf"
            convert(checkpoint, out, quant=quant, **options)
            made[key] = out
        return made[key]

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Path]) -> Path:
    """The stand-in with its drafter, all in F32."""
    return make_bundle("F32")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained tiny model with its drafter. Its choices are far from ties, as the stand-in's are not."""
    out = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    convert(MODELS / "tiny", out, quant="Q8_0", drafter=MODELS / "tiny-assistant")
    return out


@pytest.fixture(scope="module")
def mixed(make_bundle: Callable[..., Path]) -> Path:
    """A bundle of several types."""
    return make_bundle("Q4_K_M", drafter_quant="Q8_0")


@pytest.fixture(scope="module")
def parts(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stand-in's sections as three files of anyone's: no bundle keys, other names."""
    folder = tmp_path_factory.mktemp("parts")
    return {
        s.architecture: save(folder / f"part-{s.architecture}.gguf", part_of(s)) for s in Bundle.open(bundle).sections
    }


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A bundle of `PARTS`: small, made byte by byte, no model in it."""
    write_bundle(tmp_path / "whole.gguf", PARTS)
    return tmp_path / "whole.gguf"


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path) -> Path:
    """A checkpoint of the test's own, to be broken."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


@pytest.fixture(scope="module")
def small(make_bundle: Callable[..., Path]) -> Path:
    """In Q4_0, where a row's logits are the same bits in a batch of one to four (and all else depends on the batch)."""
    return make_bundle("Q4_0")


@pytest.fixture(scope="module")
def weights(bundle: Path) -> Iterator[Weights]:
    """The stand-in's text model in F32, opened by the engine."""
    with Weights(bundle) as model:
        yield model


@pytest.fixture
def make_session(weights: Weights) -> Iterator[Callable[..., Session]]:
    """A function from context options to a session; hidden rows are kept.

    In float32 throughout, because llama.cpp's arithmetic depends on the batch: there by 0.002 of a logit, in types of
    fewer bits by what a differently rounded activation makes of itself in twelve random layers.
    """
    contexts: list[Context] = []

    def make(context: int = 1024, kv_type: str = "f32", flash_attention: str = "auto", **how: Any) -> Session:
        flash_attention = "off" if kv_type == "f32" else flash_attention
        options = ContextOptions(context, threads=1, kv_type=kv_type, flash_attention=flash_attention, **how)
        contexts.append(Context(weights, options, hidden=True))
        return Session(contexts[-1])

    yield make
    for each in contexts:
        each.close()


# ── the Hub ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def layouts(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Layout]:
    """The stand-in's parts as publishers lay them out."""
    return Published(make_bundle, tmp_path_factory.mktemp("published")).layouts()


@pytest.fixture
def models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder for one test, not made yet."""
    monkeypatch.setenv("GEMMA4GGUF_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Layout], Hub]]:
    """A function that starts a Hub on this machine with a layout's repositories."""
    with ExitStack() as stack:
        yield lambda layout: stack.enter_context(serving(dict(layout.repositories), monkeypatch))
