"""Videos against transformers, live: which frames, when, the prompt's words and ids, and the logits.

Its video processor needs torchvision, which is not installed: its rule for frames and its words are asked for by
themselves, and the frames themselves are held against all frames of the file, decoded one by one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers.models.gemma4_unified.processing_gemma4_unified import Gemma4UnifiedProcessor
from transformers.video_utils import VideoMetadata, default_sample_indices_fn

from gemma4gguf import Gemma4, Video, sample
from gemma4gguf.media.image import patches_of, target_size
from gemma4gguf.runtime.asking import Question
from gemma4gguf.runtime.prompt import spans
from tests.support.recorded import moving, video_file
from tests.support.reference import Reference

CLOSE = 0.03  # logits
RATES = ((25, 40), (Fraction(30_000, 1001), 75), (10, 33), (24, 64), (60, 180))
SIZES = ((96, 160), (144, 80), (60, 240), (240, 136), (112, 112))
CLIPS = [
    (form, codec, rate, count, size)
    for form, codec in (("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4"))
    for (rate, count), size in zip(RATES, SIZES, strict=True)
]


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(bundle, threads=1, kv_type="f32", flash_attention="off", context=4096) as model:
        yield model


def every_frame(data: bytes) -> tuple[list[NDArray[np.uint8]], float]:
    """All frames of a file in turn, and how many a second."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], float(stream.average_rate)


def expansion(metadata: VideoMetadata, soft_tokens: int) -> str:
    """What the reference's processor puts in the place of a video."""
    words = SimpleNamespace(boi_token="<|image>", eoi_token="<image|>", video_token="<|video|>")
    inputs = {"num_soft_tokens_per_video": [soft_tokens], "video_metadata": [metadata]}
    return str(Gemma4UnifiedProcessor.replace_video_token(words, inputs, 0))


@pytest.mark.parametrize(("form", "codec", "rate", "count", "size"), CLIPS)
def test_frames_stamps_and_ids(
    form: str, codec: str, rate: Any, count: int, size: tuple[int, int], model: Gemma4, reference: Reference
) -> None:
    data = video_file(form, codec, moving(count, *size), rate)
    frames, fps = every_frame(data)
    metadata = VideoMetadata(total_num_frames=len(frames), fps=fps)
    metadata.frames_indices = default_sample_indices_fn(metadata, num_frames=32)
    found = sample(data)
    np.testing.assert_allclose(found.stamps, metadata.timestamps, atol=1e-9)
    shape = target_size(size[1], size[0], 70)
    for index, small in zip(metadata.frames_indices, found.frames, strict=True):
        theirs = Image.fromarray(frames[index]).resize(shape, Image.Resampling.BICUBIC)
        assert np.array_equal(small, np.asarray(theirs))
    words = expansion(metadata, shape[0] * shape[1] // 48**2)
    ids = reference.inputs("Look: <|video|> What happens?", videos=[(words, [])]).input_ids[0].tolist()
    composed = model._composer.question("Look: <|video|> What happens?", Question(videos=data, raw=True))
    ours = spans(composed.segments, *model._parts.reading(), model.image_tokens)
    assert [token for span in ours for token in span.ids] == ids
    assert sum(not span.causal for span in ours) == 32


@pytest.mark.parametrize("frames", [1, 3, 32])
def test_logits(frames: int, model: Gemma4, reference: Reference) -> None:
    data = video_file("mp4", "libx264", moving(50, 96, 160), 10)
    prompt = "<|turn>user\n<|video|>What happens?<turn|>\n<|turn>model\n"
    asked = Video(data, frames=frames)
    found = sample(asked)
    patches = [patches_of(frame) for frame in found.frames]
    metadata = VideoMetadata(total_num_frames=50, fps=10.0, frames_indices=np.rint(found.stamps * 10).astype(int))
    shown = [(patch.pixels, patch.positions) for patch in patches]
    inputs = reference.inputs(prompt, videos=[(expansion(metadata, len(patches[0])), shown)])
    ours = model.evaluate(prompt, videos=asked, raw=True)
    assert ours.ids.tolist() == inputs.input_ids[0].tolist()
    theirs = reference.logits(inputs)
    assert theirs.std() > 0.9
    assert np.abs(ours.logits - theirs).max() <= CLOSE
