"""A model's parts as publishers lay them out: their names, types and folders, with the stand-in's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from gemma4gguf.bundle.container import encode_pair, padded, place_tensors
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, Bundle, Section
from gemma4gguf.bundle.writing import Part, part_of
from tests.support.hub import Repository
from tests.support.splitting import split

MakeBundle = Callable[..., Path]


def write(path: Path, part: Part) -> Path:
    """A part as a GGUF of its own, without a bundle's keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(part.header() + b"".join(map(bytes, part.data())))
    return path


def embedder_as(section: Section, kind: T) -> Part:
    """The embedder with its matrices in another type, as llama.cpp's converter writes them."""
    small = {T.BF16: lambda x: (x.view(np.uint32) >> 16).astype(np.uint16), T.F16: lambda x: x.astype(np.float16)}
    rows: list[tuple[str, tuple[int, ...], T]] = []
    raws: list[bytes] = []
    for name, info in section.tensors.items():
        matrix = name.startswith("mm.") and kind in small
        values = np.ascontiguousarray(section.array(name), np.float32)
        raws.append((small[kind](values) if matrix else values).tobytes())
        rows.append((name, info.shape, kind if matrix else T.F32))
    number = {T.F32: 0, T.F16: 1, T.BF16: 32}[kind]
    pairs = {**section.header.pairs, **_pair("general.type", V.STRING, "mmproj")}
    pairs |= _pair("general.file_type", V.UINT32, number)
    return Part(
        EMBEDDER, pairs, place_tensors(rows), lambda: [raw + bytes(padded(len(raw)) - len(raw)) for raw in raws]
    )


def _pair(key: str, kind: V, value: Any) -> dict[str, bytes]:
    return {key: encode_pair(key, kind, value)}


@dataclass(frozen=True)
class Layout:
    """Repositories, what to type, and the files that should be taken."""

    repositories: Mapping[str, Repository]
    source: str
    drafter_from: str | None
    text: str
    embedder: str
    drafter: str | None
    name: str


class Published:
    """Files of the stand-in, made once."""

    def __init__(self, make_bundle: MakeBundle, folder: Path) -> None:
        self._make, self._folder, self._made = make_bundle, folder, dict[str, Path]()

    def _file(self, name: str, make: Callable[[Path], object]) -> Path:
        if name not in self._made:
            path = self._folder / name
            make(path)
            self._made[name] = path
        return self._made[name]

    def text(self, quant: str) -> Path:
        section = Bundle.open(self._make(quant)).text
        return self._file(f"text-{quant}", lambda path: write(path, part_of(section)))

    def shards(self, quant: str, count: int) -> list[Path]:
        stem = self._folder / f"text-{quant}"
        if not (paths := sorted(self._folder.glob(f"text-{quant}-*-of-{count:05d}.gguf"))):
            paths = split(Bundle.open(self._make(quant)).text, stem, count)
        return paths

    def embedder(self, kind: T) -> Path:
        section = Bundle.open(self._make("F32")).require(EMBEDDER)
        return self._file(f"mmproj-{kind.name}", lambda path: write(path, embedder_as(section, kind)))

    def drafter(self, quant: str) -> Path:
        section = Bundle.open(self._make("F32", drafter_quant=quant)).require(DRAFTER)
        return self._file(f"drafter-{quant}", lambda path: write(path, part_of(section)))

    def other(self, name: str, **keys: str) -> Path:
        """A GGUF that is no part of a model, such as an importance matrix; `general_type` is `general.type`."""
        pairs: dict[str, bytes] = {}
        for key, value in keys.items():
            pairs |= _pair(key.replace("_", "."), V.STRING, value)
        return self._file(name, lambda path: write(path, Part("", pairs, [], list)))

    def layouts(self) -> dict[str, Layout]:
        readme = self._file("README.md", lambda path: path.write_text("# A model\n"))
        adapter = self.other("adapter", general_architecture="gemma4", general_type="adapter")
        imatrix = self.other("imatrix", general_type="imatrix")
        two, three = self.shards("BF16", 2), self.shards("Q4_0", 3)
        mtp = Repository({"x-assistant-BF16.gguf": self.drafter("BF16"), "x-assistant-Q8_0.gguf": self.drafter("Q8_0")})
        return {
            "a text model and a projector of the same name": Layout(
                {
                    "google/gemma-4-12b-it-qat-q4_0-gguf": Repository(
                        {
                            "README.md": readme,
                            "gemma-4-12b-it-qat-q4_0.gguf": self.text("Q4_0"),
                            "mmproj-gemma-4-12b-it-qat-q4_0.gguf": self.embedder(T.BF16),
                        }
                    )
                },
                "google/gemma-4-12b-it-qat-q4_0-gguf",
                None,
                "gemma-4-12b-it-qat-q4_0.gguf",
                "mmproj-gemma-4-12b-it-qat-q4_0.gguf",
                None,
                "gemma-4-12b-it-qat-q4_0",
            ),
            "prefixes, several types": Layout(
                {
                    "ggml-org/gemma-4-12B-it-GGUF": Repository(
                        {
                            "gemma-4-12B-it-Q4_K_M.gguf": self.text("Q4_K_M"),
                            "gemma-4-12B-it-Q8_0.gguf": self.text("Q8_0"),
                            "gemma-4-12B-it-bf16.gguf": self.text("BF16"),
                            "mmproj-gemma-4-12B-it-bf16.gguf": self.embedder(T.BF16),
                            "mmproj-gemma-4-12B-it-f16.gguf": self.embedder(T.F16),
                            "mtp-gemma-4-12B-it-Q8_0.gguf": self.drafter("Q8_0"),
                            "README.md": readme,
                        }
                    )
                },
                "ggml-org/gemma-4-12B-it-GGUF",
                None,
                "gemma-4-12B-it-Q4_K_M.gguf",
                "mmproj-gemma-4-12B-it-bf16.gguf",
                "mtp-gemma-4-12B-it-Q8_0.gguf",
                "gemma-4-12B-it-Q4_K_M",
            ),
            "folders, a split, several projectors and drafters": Layout(
                {
                    "unsloth/gemma-4-12b-it-GGUF": Repository(
                        {
                            **{f"BF16/gemma-4-12b-it-BF16-0000{i}-of-00002.gguf": p for i, p in enumerate(two, 1)},
                            "MTP/gemma-4-12B-it-MTP-BF16.gguf": self.drafter("BF16"),
                            "MTP/gemma-4-12B-it-MTP-Q8_0.gguf": self.drafter("Q8_0"),
                            "gemma-4-12b-it-Q4_0.gguf": self.text("Q4_0"),
                            "gemma-4-12b-it-UD-Q4_K_XL.gguf": self.text("Q4_K_M"),
                            "imatrix_unsloth.gguf": imatrix,
                            "mmproj-F16.gguf": self.embedder(T.F16),
                            "mmproj-F32.gguf": self.embedder(T.F32),
                        }
                    )
                },
                "unsloth/gemma-4-12b-it-GGUF:bf16",
                None,
                "BF16/gemma-4-12b-it-BF16-00001-of-00002.gguf",
                "mmproj-F32.gguf",
                "MTP/gemma-4-12B-it-MTP-Q8_0.gguf",
                "gemma-4-12b-it-BF16",
            ),
            "a drafter elsewhere, the projector in F16": Layout(
                {
                    "bartowski/google_gemma-4-12B-it-GGUF": Repository(
                        {
                            "google_gemma-4-12B-it-Q4_K_M.gguf": self.text("Q4_K_M"),
                            "google_gemma-4-12B-it-Q8_0.gguf": self.text("Q8_0"),
                            "google_gemma-4-12B-it-imatrix.gguf": imatrix,
                            "lora.gguf": adapter,
                            "mmproj-google_gemma-4-12B-it-f16.gguf": self.embedder(T.F16),
                        }
                    ),
                    "someone/assistant": mtp,
                },
                "bartowski/google_gemma-4-12B-it-GGUF:Q8_0",
                "someone/assistant",
                "google_gemma-4-12B-it-Q8_0.gguf",
                "mmproj-google_gemma-4-12B-it-f16.gguf",
                "x-assistant-Q8_0.gguf",
                "google_gemma-4-12B-it-Q8_0",
            ),
            "names that tell nothing": Layout(
                {
                    "someone/gemma": Repository(
                        {
                            **{f"parts/model-0000{i}-of-00003.gguf": path for i, path in enumerate(three, 1)},
                            "parts/other.gguf": self.text("Q8_0"),
                            "vision and sound.gguf": self.embedder(T.BF16),
                            "z.gguf": self.drafter("BF16"),
                        }
                    )
                },
                "someone/gemma:Q4_0",
                None,
                "parts/model-00001-of-00003.gguf",
                "vision and sound.gguf",
                "z.gguf",
                "gemma-Q4_0",
            ),
        }


def lied_about(repository: Repository, path: str) -> Repository:
    """The same repository, where the Hub tells another digest of one file."""
    return replace(repository, digests={path: "0" * 64})
