"""Patches and frames to soft tokens: against a slow twin in float64 that works in the checkpoint's own order.

The twin holds the patch matrix as the checkpoint has it (row, column, RGB); the bundle holds it as llama.cpp's
projector wants it (red plane, green plane, blue plane). That both give the same soft token is the point.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Kind

from gemma4gguf.bundle.projector import PATCH_SIDE, PATCH_VALUES
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.errors import FormatError, InputError, MissingPartError
from gemma4gguf.media.embedder import Embedder
from gemma4gguf.media.image import patchify
from tests.support.embedders import (
    FRAME,
    HIDDEN,
    TABLE,
    WIDTH,
    Arrays,
    Contents,
    checkpoint_weights,
    contents,
    planes,
    write,
)

TOLERANCE = 1e-5  # max |difference| / max |value|
MEDIA = Path(__file__).parent / "data" / "media"


# ── the twin ─────────────────────────────────────────────────────────────────────────────────────────────────────


def slow_layer_norm(row: Any, weight: Any, bias: Any) -> Any:
    mean = sum(row) / len(row)
    variance = sum((v - mean) ** 2 for v in row) / len(row)
    return (row - mean) / math.sqrt(variance + 1e-5) * weight + bias


def slow_project(row: Any, matrix: Any) -> Any:
    return matrix @ (row / math.sqrt(sum(v * v for v in row) / len(row) + 1e-6))


def slow_image(weights: Arrays, pixels: Any, positions: Any) -> Any:
    """One patch after the other, float64, in the checkpoint's order."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    out = []
    for row, (x, y) in zip(pixels.astype(np.float64), positions, strict=True):
        row = slow_layer_norm(row, w["v.patch_norm.1.weight"], w["v.patch_norm.1.bias"])
        row = w["v.patch_embd.weight"] @ row + w["v.patch_embd.bias"]
        row = slow_layer_norm(row, w["v.patch_norm.2.weight"], w["v.patch_norm.2.bias"])
        row = row + w["v.position_embd.weight"][0, x] + w["v.position_embd.weight"][1, y]
        row = slow_layer_norm(row, w["v.patch_norm.3.weight"], w["v.patch_norm.3.bias"])
        out.append(slow_project(row, w["mm.input_projection.weight"]))
    return np.array(out)


def slow_audio(weights: Arrays, frames: Any) -> Any:
    matrix = weights["mm.a.input_projection.weight"].astype(np.float64)
    return np.array([slow_project(row, matrix) for row in frames.astype(np.float64)])


def difference(found: Any, expected: Any) -> float:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# ── right values ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("embedder") / "bundle.gguf", contents())


@pytest.fixture(scope="module")
def embedder(bundle: Path) -> Embedder:
    return Embedder(bundle)


def test_opens_a_path_or_a_bundle(bundle: Path) -> None:
    for source in (bundle, str(bundle), Bundle.open(bundle)):
        opened = Embedder(source)
        assert (opened.hidden, opened.sees, opened.hears) == (HIDDEN, True, True)


def test_a_photograph_agrees_with_the_twin(embedder: Embedder) -> None:
    patches = patchify(MEDIA / "waves_160x120.png", 70)
    expected = slow_image(checkpoint_weights(), patches.pixels, patches.positions)
    assert difference(embedder.image(patches), expected) <= TOLERANCE
    assert np.array_equal(embedder.image(patches.pixels, patches.positions), embedder.image(patches))


def test_noise_agrees_with_the_twin(embedder: Embedder) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.random((20, PATCH_VALUES), np.float32)
    positions = rng.integers(0, TABLE, (20, 2)).astype(np.int32)
    expected = slow_image(checkpoint_weights(), pixels, positions)
    assert difference(embedder.image(pixels, positions), expected) <= TOLERANCE


@pytest.mark.parametrize(("row", "column", "channel"), [(0, 0, 0), (0, 0, 2), (0, 1, 0), (1, 0, 1), (47, 46, 2)])
def test_one_lit_pixel_gives_the_same_soft_token_in_both_orders(
    embedder: Embedder, row: int, column: int, channel: int
) -> None:
    picture = np.zeros((PATCH_SIDE, PATCH_SIDE, 3), np.float32)
    picture[row, column, channel] = 1
    pixels = picture.reshape(1, PATCH_VALUES)
    expected = slow_image(checkpoint_weights(), pixels, np.array([[3, 5]]))
    assert difference(embedder.image(pixels, np.array([[3, 5]], np.int32)), expected) <= TOLERANCE
    # and the light is not lost among the norms: its neighbour's soft token is another one
    neighbour = np.roll(pixels, 1, axis=1)
    assert difference(embedder.image(neighbour, np.array([[3, 5]], np.int32)), expected) > 100 * TOLERANCE


@pytest.mark.parametrize("level", [0.0, 1 / 255, 0.1, 0.7, 1.0])
def test_flat_patches(embedder: Embedder, level: float) -> None:
    # No variance: the norm's epsilon alone keeps rounding errors from being blown up.
    pixels = np.full((2, PATCH_VALUES), level, np.float32)
    positions = np.array([[0, 0], [TABLE - 1, 1]], np.int32)
    expected = slow_image(checkpoint_weights(), pixels, positions)
    assert difference(embedder.image(pixels, positions), expected) <= TOLERANCE


def test_x_and_y_have_tables_of_their_own(embedder: Embedder) -> None:
    pixels = np.full((2, PATCH_VALUES), 0.5, np.float32)
    soft = embedder.image(pixels, np.array([[1, 2], [2, 1]], np.int32))
    assert difference(soft[:1], soft[1:]) > 0.1


def test_many_patches_equal_the_same_patches_few_at_a_time(embedder: Embedder) -> None:
    rng = np.random.default_rng(2)
    pixels = rng.random((600, PATCH_VALUES), np.float32)
    positions = rng.integers(0, TABLE, (600, 2)).astype(np.int32)
    whole = embedder.image(pixels, positions)
    pieces = [embedder.image(pixels[i : i + 7], positions[i : i + 7]) for i in range(0, 600, 7)]
    assert difference(whole, np.concatenate(pieces)) <= TOLERANCE


def test_inputs_are_left_alone(embedder: Embedder) -> None:
    pixels = np.random.default_rng(3).random((3, PATCH_VALUES), np.float32)
    positions = np.zeros((3, 2), np.int32)
    frames = np.random.default_rng(3).random((3, FRAME), np.float32)
    kept = pixels.copy(), frames.copy()
    for array in (pixels, positions, frames):
        array.flags.writeable = False
    embedder.image(pixels, positions)
    embedder.audio(frames)
    assert np.array_equal(pixels, kept[0])
    assert np.array_equal(frames, kept[1])


@pytest.mark.parametrize("loudness", [1.0, 0.1, 1e-3, 3e-5, 1e-12, 0.0])
def test_audio_agrees_with_the_twin_from_loud_to_silent(embedder: Embedder, loudness: float) -> None:
    frames = (np.random.default_rng(4).standard_normal((5, FRAME)) * loudness).clip(-1, 1).astype(np.float32)
    expected = slow_audio(checkpoint_weights(), frames)
    found = embedder.audio(frames)
    if loudness:
        assert difference(found, expected) <= TOLERANCE
    else:
        assert not found.any()


def test_the_epsilon_of_the_file_is_used(tmp_path: Path) -> None:
    what = contents().having("clip.audio.attention.layer_norm_epsilon", Kind.FLOAT32, 1e-2)
    other = Embedder(write(tmp_path / "b.gguf", what))
    frames = np.full((1, FRAME), 0.1, np.float32)  # its mean square is 1e-2
    loud = np.full((1, FRAME), 1.0, np.float32)
    ratio = np.linalg.norm(other.audio(frames)) / np.linalg.norm(other.audio(loud))
    assert abs(ratio - math.sqrt(0.5 * 1.01)) < 1e-4


# ── other types and halves ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q8_0])
def test_matrices_of_other_types(tmp_path: Path, kind: Type) -> None:
    names = ("v.patch_embd.weight", "v.position_embd.weight", "mm.input_projection.weight")
    what = replace(contents(5), types=dict.fromkeys((*names, "mm.a.input_projection.weight"), kind))
    path = write(tmp_path / "b.gguf", what)
    section = Bundle.open(path).require("clip")
    rounded = {name: np.array(section.array(name), np.float32) for name in what.weights}
    back = np.argsort(planes(np.arange(PATCH_VALUES)))
    for name in ("v.patch_embd.weight", "v.patch_norm.1.weight", "v.patch_norm.1.bias"):
        rounded[name] = rounded[name][..., back]
    patches = patchify(MEDIA / "waves_160x120.png", 70)
    opened = Embedder(path)
    assert difference(opened.image(patches), slow_image(rounded, patches.pixels, patches.positions)) <= TOLERANCE
    frames = np.random.default_rng(6).standard_normal((4, FRAME)).astype(np.float32) * 0.1
    assert difference(opened.audio(frames), slow_audio(rounded, frames)) <= TOLERANCE


def test_stored_float32_is_used_where_it_lies(embedder: Embedder) -> None:
    for name, array in {**embedder._vision_weights, **embedder._audio_weights}.items():
        assert not array.flags.owndata, name
        assert not array.flags.writeable, name


def test_one_half_alone(tmp_path: Path) -> None:
    audio = "mm.a.input_projection.weight"
    eyes = contents().without("clip.has_audio_encoder", audio)
    ears = contents().having("clip.has_vision_encoder", Kind.BOOL, False)
    ears = replace(ears, weights={audio: ears.weights[audio]})
    seeing, hearing = Embedder(write(tmp_path / "eyes.gguf", eyes)), Embedder(write(tmp_path / "ears.gguf", ears))
    assert (seeing.sees, seeing.hears, hearing.sees, hearing.hears) == (True, False, False, True)
    assert seeing.image(patchify(MEDIA / "flat_1x1.png", 70)).shape == (64, HIDDEN)
    assert hearing.audio(np.ones((2, FRAME), np.float32)).shape == (2, HIDDEN)
    with pytest.raises(InputError, match=r"eyes\.gguf: the multimodal embedder has no audio half"):
        seeing.audio(np.ones((2, FRAME), np.float32))
    with pytest.raises(InputError, match=r"ears\.gguf: the multimodal embedder has no image half"):
        hearing.image(patchify(MEDIA / "flat_1x1.png", 70))


# ── files that are not what they should be ───────────────────────────────────────────────────────────────────────


def test_a_bundle_without_an_embedder(tmp_path: Path) -> None:
    with pytest.raises(MissingPartError, match="has no multimodal embedder"):
        Embedder(write(tmp_path / "b.gguf", contents(), embedder=False))


EPSILON = "clip.vision.attention.layer_norm_epsilon"
BAD_FILES: list[tuple[Contents, str]] = [
    (contents().without("v.patch_norm.2.bias"), "no tensor 'v.patch_norm.2.bias'"),
    (contents().without("mm.a.input_projection.weight"), "no tensor 'mm.a.input_projection.weight'"),
    (contents().holding("v.patch_embd.bias", np.ones(WIDTH + 1, np.float32)), r"shape \(97,\), expected \(96,\)"),
    (
        contents().holding("v.patch_embd.weight", np.ones((WIDTH, 768), np.float32)),
        r"shape \(96, 768\), expected \(96, 6912\)",
    ),
    (
        contents().holding("v.position_embd.weight", np.ones((TABLE, 2, WIDTH), np.float32)),
        r"shape \(80, 2, 96\), expected \(2, 'any', 96\)",
    ),
    (contents().holding("v.position_embd.weight", np.ones((2, WIDTH), np.float32)), "v.position_embd.weight"),
    (contents().holding("v.position_embd.weight", np.ones((2, 69, WIDTH), np.float32)), "knows 69 places of a patch"),
    (contents().having("clip.vision.projector_type", Kind.STRING, "gemma4v"), "'gemma4v', expected 'gemma4uv'"),
    (contents().having("clip.projector_type", Kind.STRING, "gemma4uv"), "audio projector of type 'gemma4uv'"),
    (contents().without("clip.audio.projector_type"), "projector of type None"),
    (contents().without("clip.vision.embedding_length"), "clip.vision.embedding_length is None"),
    (contents().having("clip.vision.embedding_length", Kind.STRING, "96"), "is '96', expected a size"),
    (contents().having("clip.vision.embedding_length", Kind.BOOL, True), "is True, expected a size"),
    (contents().having("clip.vision.embedding_length", Kind.UINT32, 0), "is 0, expected a size"),
    (contents().without(EPSILON), "layer_norm_epsilon is None"),
    (contents().having(EPSILON, Kind.FLOAT32, 0.0), "layer_norm_epsilon is 0.0"),
    (contents().having(EPSILON, Kind.FLOAT32, math.nan), "layer_norm_epsilon is nan"),
    (contents().having("clip.vision.patch_size", Kind.UINT32, 14), "patch_size is 14, expected 16"),
    (contents().having("clip.vision.projector.scale_factor", Kind.UINT32, 2), "scale_factor is 2, expected 3"),
    (replace(contents(), arrays={"clip.vision.image_mean": [0.5] * 3}), "image_mean is"),
    (replace(contents(), types={"v.patch_norm.2.bias": Type.Q8_0}), "stored as Q8_0, expected F32"),
    (replace(contents(), hidden=128), "makes soft tokens of 64 and 64 values, the text model takes 128"),
    (contents().without("clip.has_vision_encoder", "clip.has_audio_encoder"), "makes soft tokens of no values"),
]


@pytest.mark.parametrize(("what", "message"), BAD_FILES, ids=[message[:50] for _, message in BAD_FILES])
def test_what_does_not_fit_its_metadata(tmp_path: Path, what: Contents, message: str) -> None:
    path = write(tmp_path / "b.gguf", what)
    with pytest.raises(FormatError, match=message) as raised:
        Embedder(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_damaged_weights_are_noticed(tmp_path: Path) -> None:
    broken = np.full((HIDDEN, WIDTH), np.nan, np.float32)
    damaged = Embedder(write(tmp_path / "b.gguf", contents().holding("mm.input_projection.weight", broken)))
    with pytest.raises(FormatError, match="not finite"):
        damaged.image(patchify(MEDIA / "flat_1x1.png", 70))


# ── what cannot be embedded ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pixels", "positions", "message"),
    [
        (np.ones((2, 768), np.float32), [[0, 0], [0, 1]], r"shape \(2, 768\), float32: expected float32 \[N, 6912\]"),
        (np.ones((0, PATCH_VALUES), np.float32), [], "N at least 1"),
        (np.ones((2, PATCH_VALUES), np.uint8), [[0, 0], [0, 1]], "uint8: expected float32"),
        (np.full((1, PATCH_VALUES), 255.0), [[0, 0]], "from 255 to 255: expected 0 to 1"),
        (np.full((1, PATCH_VALUES), np.nan), [[0, 0]], "not finite"),
        (np.ones((1, PATCH_VALUES)), None, "positions: expected int32 .* found none"),
        (np.ones((1, PATCH_VALUES)), [[0, 0], [0, 1]], r"\(1, 2\) as \(x, y\), found int64 \(2, 2\)"),
        (np.ones((1, PATCH_VALUES)), [[0.0, 0.0]], "found float64"),
        (np.ones((1, PATCH_VALUES)), [[0, -1]], "position -1: rows that only pad"),
        (np.ones((1, PATCH_VALUES)), [[TABLE - 1, TABLE]], "position 80: this checkpoint knows 0 to 79"),
    ],
)
def test_bad_patches(embedder: Embedder, pixels: Any, positions: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        embedder.image(pixels, None if positions is None else np.array(positions))


def test_a_picture_wider_than_the_position_table(embedder: Embedder) -> None:
    with pytest.raises(
        InputError, match="position 139: this checkpoint knows 0 to 79; choose a smaller budget or crop"
    ):
        embedder.image(patchify(np.zeros((1, 20000), np.uint8), 140))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.ones((2, 641), np.float32), r"shape \(2, 641\), float32: expected float32 \[N, 640\]"),
        (np.ones(640, np.float32), "shape"),
        (np.ones((0, 640), np.float32), "N at least 1"),
        (np.ones((2, 640), np.int16), "int16: expected float32"),
        (np.full((2, 640), np.inf), "not finite"),
    ],
)
def test_bad_frames(embedder: Embedder, frames: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        embedder.audio(frames)
