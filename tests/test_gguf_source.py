"""GGUF files as the source of a conversion: which are taken, and which are refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from converters import convert
from gemma4gguf.bundle.container import encode_header, padded
from gemma4gguf.bundle.reading import KEY, Bundle, Section
from gemma4gguf.errors import ConversionError, Gemma4Error
from tests.support.broken import fails
from tests.support.bundles import number


def rewrite(section: Section, out: Path, extra: dict[str, bytes], alignment: int = 32) -> Path:
    """The section as a GGUF of its own, with further keys and another alignment of its tensors."""
    pairs = {k: v for k, v in section.header.pairs.items() if not k.startswith(KEY)} | extra
    tensors, data = [], b""
    for info in section.tensors.values():
        data += bytes(padded(len(data), alignment) - len(data))
        tensors.append(replace(info, offset=len(data)))
        data += section.raw(info.name).tobytes()
    out.write_bytes(
        encode_header(pairs.values(), tensors, alignment) + data + bytes(padded(len(data), alignment) - len(data))
    )
    return out


def test_a_gguf_is_never_written_over_itself(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(make_bundle("BF16").read_bytes())
    with pytest.raises(Gemma4Error, match="is the source itself"):
        convert(path, path, quant="Q4_0", force=True)
    assert path.read_bytes() == make_bundle("BF16").read_bytes()


@pytest.mark.parametrize(
    ("source", "quant"), [("Q4_0", "Q8_0"), ("Q4_K_M", "Q4_0"), ("Q8_0", "BF16"), ("Q6_K", "Q4_K_M"), ("Q5_0", "Q5_1")]
)
def test_a_source_below_the_asked_type(
    make_bundle: Callable[..., Path], tmp_path: Path, source: str, quant: str
) -> None:
    with pytest.raises(ConversionError, match=r"cannot become .*start from the checkpoint"):
        convert(make_bundle(source), tmp_path / "out.gguf", quant=quant)
    assert list(tmp_path.iterdir()) == []


def test_ggufs_of_something_else(make_bundle: Callable[..., Path], tmp_path: Path, folder: Path) -> None:
    for section in Bundle.open(make_bundle("BF16")).sections[1:]:
        path = tmp_path / f"{section.architecture}.gguf"
        path.write_bytes(b"".join(section.copy()))
        fails(path, "expected a Gemma 4 text model")
    fails(folder, "holds no MTP drafter", drafter=tmp_path / "clip.gguf")
    (tmp_path / "broken.gguf").write_bytes(make_bundle("BF16").read_bytes()[:5000])
    fails(tmp_path / "broken.gguf", "broken.gguf")


def test_ggufs_of_relatives_and_parts_of_split_files(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    text = Bundle.open(make_bundle("BF16")).text
    for extra, word in (
        (number("gemma4.embedding_length_per_layer_input", 256), "E2B"),
        (number("gemma4.expert_count", 128), "26B-A4B"),
        (number("split.count", 3), "llama-gguf-split --merge"),
        (number("gemma4.block_count", 0), "gemma4.block_count is 0"),
    ):
        fails(rewrite(text, tmp_path / "odd.gguf", extra), word)


def test_a_source_with_another_alignment(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    text = Bundle.open(make_bundle("BF16")).text
    wide = rewrite(text, tmp_path / "wide.gguf", number("general.alignment", 4096), 4096)
    convert(wide, tmp_path / "a.gguf", quant="Q4_0")
    convert(rewrite(text, tmp_path / "plain.gguf", {}), tmp_path / "b.gguf", quant="Q4_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_source_that_lost_its_embedder_says_so(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    source = make_bundle("BF16")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(source.read_bytes()[: Bundle.open(source).text.size])  # what a rewriting tool leaves
    done = convert(cut, tmp_path / "out.gguf", quant="Q4_0")
    assert any("NO EMBEDDER" in note and "another tool rewrote" in note for note in done.plan.notes)
