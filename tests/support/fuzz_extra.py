"""An area of `scripts/fuzz`: files of the formats that the extra `media` reads, their bytes changed.

HEIC and AVIF pictures, sound and pictures of containers as phones and browsers write them, pages of PDFs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

from gemma4gguf.errors import InputError
from gemma4gguf.media.pdf import pages
from gemma4gguf.media.video import Video, sample, sound

from . import recorded
from .fuzz_media import Seed, heard, media, seen
from .fuzzing import Case

SOUND = (  # FFmpeg's format, codec, rate, layout
    *(("ipod", "aac", 44_100, "mono"), ("mp4", "aac", 44_100, "5.1"), ("mp4", "alac", 44_100, "stereo")),
    *(("3gp", "libopencore_amrnb", 8000, "mono"), ("amr", "libopencore_amrnb", 8000, "mono")),
    *(("adts", "aac", 48_000, "stereo"), ("latm", "aac", 48_000, "mono"), ("webm", "libopus", 48_000, "mono")),
    *(("ogg", "libopus", 48_000, "stereo"), ("asf", "wmav2", 44_100, "stereo"), ("mov", "pcm_s24be", 44_100, "5.1")),
    *(("mov", "adpcm_ima_qt", 44_100, "mono"), ("avi", "libmp3lame", 44_100, "stereo"), ("flv", "aac", 44_100, "mono")),
    *(("mpegts", "mp2", 48_000, "stereo"), ("mpeg", "mp2", 44_100, "mono"), ("caf", "alac", 44_100, "stereo")),
    *(("wv", "wavpack", 44_100, "stereo"), ("tta", "tta", 44_100, "stereo"), ("ac3", "ac3", 48_000, "5.1")),
)
VIDEOS = (  # FFmpeg's format, codec, pixel format, with the sound's codec where it has any
    *(("mp4", "libx264", "yuv420p", "aac"), ("mp4", "libx265", "yuv420p10le", ""), ("mp4", "libsvtav1", "yuv420p", "")),
    *(("mov", "prores", "yuv422p10le", ""), ("webm", "libvpx", "yuv420p", "libopus")),
    *(("webm", "libvpx-vp9", "yuv420p", ""), ("matroska", "ffv1", "yuv420p", ""), ("avi", "mpeg4", "yuv420p", "")),
    *(("flv", "libx264", "yuv420p", "aac"), ("asf", "wmv2", "yuv420p", ""), ("mpegts", "libx264", "yuv420p", "aac")),
    *(("3gp", "h263", "yuv420p", ""), ("mpeg", "mpeg2video", "yuv420p", "")),
)
LETTER = b"""%PDF-1.7
1 0 obj <</Type/Catalog/Pages 2 0 R/OpenAction<</S/JavaScript/JS(app.alert\\(1\\))>>>> endobj
2 0 obj <</Type/Pages/Kids[3 0 R 3 0 R]/Count 2/MediaBox[0 0 120 90]>> endobj
3 0 obj <</Type/Page/Parent 2 0 R/Rotate 90/Contents 5 0 R/Annots[8 0 R]/Group<</S/Transparency/CS/DeviceRGB>>
 /Resources<</Font<</F 4 0 R>>/XObject<</X 6 0 R>>/Shading<</S 7 0 R>>/ExtGState<</G<</ca .5/BM/Multiply>>>>>>>> endobj
4 0 obj <</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>> endobj
5 0 obj <</Length 118>> stream
/G gs /S sh q 40 0 0 30 60 40 cm /X Do Q BT /F 12 Tf 9 60 Td (You owe us 12 pounds.) Tj ET 1 0 0 rg 5 5 m 60 30 l h f
endstream endobj
6 0 obj <</Type/XObject/Subtype/Image/Width 4/Height 2/BitsPerComponent 8/ColorSpace[/Indexed/DeviceRGB 1<00ff00ff00ff>]
 /Filter/ASCIIHexDecode/Length 17>> stream
0001000101000100>
endstream endobj
7 0 obj <</ShadingType 2/ColorSpace/DeviceRGB/Coords[0 0 120 90]
 /Function<</FunctionType 2/Domain[0 1]/C0[1 1 1]/C1[0 0 1]/N 1>>>> endobj
8 0 obj <</Type/Annot/Subtype/Link/Rect[0 0 9 9]/A<</S/URI/URI(https://www.example.com)>>>> endobj
trailer <</Root 1 0 R/Size 9>>
"""


def extra(folder: Path) -> Case:
    """Such a file, read as a picture, a clip, a video with its sound, or pages, in a fork."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as elsewhere:  # encoders leave threads behind
        return media(folder, elsewhere.submit(_seeds).result())


def _seeds() -> list[Seed]:
    return [
        *((seen, data) for data in _pictures()),
        *((heard, data) for data in _sound()),
        *((watched, data) for data in _videos()),
        *((leafed, data) for data in _documents()),
    ]


def watched(data: bytes) -> str:
    """A video's frames and its sound."""
    video = Video(data, frames=4)
    try:
        samples, _ = sound(video)
        assert np.isfinite(samples).all()
    except InputError:  # a video needs none
        samples = np.empty(0, np.float32)
    frames, stamps = sample(video)
    assert len(frames) == len(stamps) > 0
    assert np.isfinite(stamps).all()
    return f"{len(frames)} frames, {len(samples)} samples"


def leafed(data: bytes) -> str:
    """A document's first pages."""
    found = pages(data, "1")
    assert max(found[0].picture.size) <= 2305
    return f"{found[0].picture.size}, {len(found[0].text)} characters"


def _pictures() -> Iterator[bytes]:
    noise = np.random.default_rng(1).integers(0, 256, (48, 64, 4), np.uint8)
    noise[:, 20:] = 90
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    for mode in ("RGB", "RGBA", "L"):
        image = Image.fromarray(noise).convert(mode)
        for kind, options in (("HEIF", {}), ("HEIF", {"exif": exif}), ("AVIF", {}), ("AVIF", {"exif": exif})):
            file = io.BytesIO()
            if kind == "HEIF":
                pillow_heif.from_pillow(image).save(file, quality=50, **options)
            else:
                image.save(file, kind, **options)
            yield file.getvalue()
    several, deep = io.BytesIO(), io.BytesIO()
    pictures = pillow_heif.from_pillow(Image.fromarray(noise))
    pictures.add_from_pillow(Image.fromarray(noise[:32, :32]))
    pictures.save(several, quality=50)
    yield several.getvalue()
    pillow_heif.from_bytes("RGB;16", (64, 48), noise.repeat(2, 1)[..., :3].tobytes()).save(deep, quality=50)
    yield deep.getvalue()


def _sound() -> Iterator[bytes]:
    for form, codec, rate, layout in SOUND:
        yield recorded.sound_file(form, codec, recorded.sweep(rate, 0.3), rate, layout)
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    yield recorded.sound_file("mp4", "aac", recorded.sweep(44_100, 0.3), 44_100, options=fragments)


def _videos() -> Iterator[bytes]:
    pictures = recorded.moving(6, 96, 128)
    for form, codec, pixels, sound_codec in VIDEOS:
        samples = recorded.sweep(48_000, 0.3) if sound_codec else None
        yield recorded.video_file(
            form, codec, pictures, pixel_format=pixels, samples=samples, sound_codec=sound_codec or "aac"
        )
    yield recorded.video_file("mp4", "libx264", pictures, times=[0, 0.1, 0.5, 0.6, 2, 2.5], rotation=90)


def _documents() -> Iterator[bytes]:
    yield LETTER
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8))
    for mode in ("RGB", "L", "P", "1", "CMYK"):
        file = io.BytesIO()
        noise.convert(mode).save(file, "PDF", save_all=True, append_images=[noise])
        yield file.getvalue()
