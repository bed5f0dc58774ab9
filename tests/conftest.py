"""What many tests share: the random stand-in checkpoint, and bundles made of it, once per run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from converters import convert
from tests.support import standin

MODELS = Path(__file__).parent.parent / "models"


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
    folder, made = tmp_path_factory.mktemp("bundles"), {}

    def make(quant: str = "F32", **how: object) -> Path:
        key = "-".join([quant, *(f"{name}={how[name]}" for name in sorted(how))])
        if key not in made:
            options = {"drafter": drafter, "drafter_quant": "F32", **how}
            out = folder / f"{len(made)}.gguf"
            made[key] = convert(checkpoint, out, quant=quant, **options).path  # type: ignore[arg-type]
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
