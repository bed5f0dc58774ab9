"""`export`: the parts are the bundle's own bytes, under the names and beside the files that others look for."""

from __future__ import annotations

import json
import os
import resource
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from gemma4gguf.bundle.newfile import new_file
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT, Bundle
from gemma4gguf.bundle.writing import part_of, write_bundle
from gemma4gguf.cli import cli, run
from gemma4gguf.errors import ConversionError, FormatError, Gemma4Error, InputError
from gemma4gguf.media.image import target_size
from gemma4gguf.tools.export import TARGETS, Exported, _linked, export
from gemma4gguf.tools.layouts import MIN_TOKENS
from gemma4gguf.tools.pack import pack

FILES = {"llama.cpp": "{}/{}m.gguf", "lmstudio": "{}/gemma4gguf/m/{}m.gguf", "ollama": "{}/{}m.gguf"}
PREFIX = {TEXT: "", EMBEDDER: "mmproj-", DRAFTER: "mtp-"}


@pytest.fixture
def model(bundle: Path, tmp_path: Path) -> Path:
    """The stand-in under a short name, in a folder of its own."""
    (tmp_path / "models").mkdir()
    os.link(bundle, tmp_path / "models" / "m.gguf")
    return tmp_path / "models" / "m.gguf"


def tree(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_ino for p in sorted(folder.rglob("*"))}


def raw(model: Path, architecture: str) -> bytes:
    return b"".join(Bundle.open(model).require(architecture).copy())


def by_name(result: Exported) -> dict[str, Any]:
    return {file.path.name: file for file in result.files}


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("target", TARGETS)
def test_parts_are_the_bundles_bytes(model: Path, tmp_path: Path, target: str) -> None:
    folder = tmp_path / "out"
    result = export(model, folder, target, link=False)
    wanted = (TEXT, EMBEDDER) if target == "lmstudio" else (TEXT, EMBEDDER, DRAFTER)
    for name in wanted:
        path = Path(FILES[target].format(folder, PREFIX[name]))
        assert path.read_bytes() == raw(model, name)
    assert {f.path for f in result.files} == {p for p in folder.rglob("*") if p.is_file()}
    assert all(f.size == f.path.stat().st_size for f in result.files)
    assert len({f.path for f in result.files}) == len(result.files)


@pytest.mark.parametrize("target", ["llama.cpp", "ollama"])
def test_pack_of_an_export_is_the_bundle(model: Path, tmp_path: Path, target: str) -> None:
    for link in (True, False):
        folder = tmp_path / f"{target}-{link}"
        export(model, folder, target, link=link)
        out = tmp_path / f"{link}.gguf"
        pack(folder / "m.gguf", out, embedder=folder / "mmproj-m.gguf", drafter=folder / "mtp-m.gguf")
        assert out.read_bytes() == model.read_bytes()


def test_a_link_takes_no_room_where_a_text_model_is_enough(model: Path, tmp_path: Path) -> None:
    """llama.cpp and LM Studio read the whole bundle as a text model. Ollama would store all of it: it gets a part."""
    for target, how in (("llama.cpp", "linked"), ("lmstudio", "linked"), ("ollama", "cut")):
        made = by_name(export(model, tmp_path / target, target))
        assert made["m.gguf"].how == how
        assert made["m.gguf"].path.samefile(model) == (how == "linked")
        assert made["mmproj-m.gguf"].how == "cut"


def test_again_and_again_leaves_the_bundle_alone(model: Path, tmp_path: Path) -> None:
    """A bundle's second name is never written through, whatever an earlier run left."""
    original = model.read_bytes()
    for target in ("llama.cpp", "llama.cpp", "ollama", "llama.cpp"):
        export(model, tmp_path, target, force=True)
        assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
    os.link(model, tmp_path / ".other.gguf.partial")  # as earlier versions left it
    with new_file(tmp_path / "other.gguf", 1, force=True) as out:
        out.write(b"x")
    os.link(model, tmp_path / "named.gguf")
    with new_file(tmp_path / "named.gguf", 1, force=True) as out:
        out.write(b"x")
    assert model.read_bytes() == original


def test_where_nothing_can_be_linked_it_is_cut(model: Path, tmp_path: Path) -> None:
    """On another file system, where the machine has a second one to write to; a failing link is met in any case."""
    assert not _linked(model, tmp_path / "no folder" / "m.gguf")
    assert tree(tmp_path).keys() == {"models", "models/m.gguf"}
    shared = Path("/dev/shm")
    if shared.is_dir() and shared.stat().st_dev != tmp_path.stat().st_dev:
        with tempfile.TemporaryDirectory(dir=shared) as name:
            result = export(model, name, "llama.cpp")
            assert {f.how for f in result.files} == {"cut"}
            for architecture, prefix in PREFIX.items():
                assert Path(name, f"{prefix}m.gguf").read_bytes() == raw(model, architecture)


def test_a_text_model_alone(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.gguf"
    write_bundle(text, [part_of(Bundle.open(model).text)])
    for target in TARGETS:
        result = export(text, tmp_path / target, target)
        names = {f.path.name for f in result.files}
        extra = {"llama.cpp": set(), "lmstudio": {"README.md"}, "ollama": {"Modelfile"}}[target]
        assert names == {"text.gguf", *extra}
        assert "mmproj" not in " ".join(result.commands)
        assert by_name(result)["text.gguf"].how == "linked"  # the whole file is the part
    assert (tmp_path / "ollama" / "Modelfile").read_text().count("FROM ") == 1


def test_beside_the_bundle_itself(model: Path) -> None:
    """In its own folder the bundle is the text model; it is never replaced by a part of itself."""
    before = model.read_bytes()
    result = export(model, model.parent, "llama.cpp")
    assert by_name(result)["m.gguf"].how == "there"
    assert sorted(p.name for p in model.parent.iterdir()) == ["m.gguf", "mmproj-m.gguf", "mtp-m.gguf"]
    for target, link in (("llama.cpp", False), ("ollama", True)):
        with pytest.raises(InputError, match="is the bundle itself"):
            export(model, model.parent, target, link=link, force=True)
    assert model.read_bytes() == before
    assert Bundle.open(model).missing == ()


def test_names_that_need_no_quotes(bundle: Path, tmp_path: Path) -> None:
    odd = tmp_path / "My model (v2) 'größe'.gguf"
    os.link(bundle, odd)
    result = export(odd, tmp_path / "out", "ollama")
    assert set(by_name(result)) == {
        "My-model-v2-gr-e.gguf",
        "mmproj-My-model-v2-gr-e.gguf",
        "mtp-My-model-v2-gr-e.gguf",
        "Modelfile",
    }


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_exists_is_touched(model: Path, tmp_path: Path, target: str) -> None:
    """One file in the way of the last: refused before the first is made. With force it is replaced."""
    folder = tmp_path / "out"
    last = export(model, folder, target).files[-1].path
    for path in folder.rglob("*"):
        if path.is_file() and path != last:
            path.unlink()
    before = tree(folder)
    with pytest.raises(ConversionError, match=rf"{last.name}: exists already.*force=True"):
        export(model, folder, target)
    assert tree(folder) == before
    again = export(model, folder, target, force=True)
    assert all(file.how != "there" or file.path.samefile(model) for file in again.files)
    assert not list(folder.rglob(".*"))


def test_a_failure_leaves_no_partial_file(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, limits[1]))  # less than the embedder
        with pytest.raises(ConversionError, match=r"mmproj-m\.gguf: writing failed"):
            export(model, folder, "llama.cpp")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in folder.iterdir()] == ["m.gguf"]  # the link, whole


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"target": "koboldcpp"}, InputError, r"the known ones are llama\.cpp, lmstudio, ollama"),
        ({"image_tokens": 300}, InputError, "300"),
        ({"folder": "file"}, ConversionError, "is a file where a folder must go"),
        ({"folder": "file/deeper"}, ConversionError, "is a file where a folder must go"),
        ({"file": "none.gguf"}, InputError, "no such file"),
        ({"file": "file"}, FormatError, "the file is empty"),
        ({"file": "part"}, FormatError, "that this file once had is gone.*gemma4gguf pack"),
    ],
)
def test_mistakes(model: Path, tmp_path: Path, how: dict[str, Any], error: type[Gemma4Error], message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "part").write_bytes(raw(model, TEXT))
    before = tree(tmp_path)
    given = {"file": "models/m.gguf", "folder": "out", "target": "llama.cpp", **how}
    with pytest.raises(error, match=message) as failure:
        export(tmp_path / given.pop("file"), tmp_path / given.pop("folder"), given.pop("target"), **given)
    assert "\n" not in str(failure.value)
    assert tree(tmp_path) == before


# ── what to type ─────────────────────────────────────────────────────────────────────────────────────────────────


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


@pytest.mark.parametrize("budget", MIN_TOKENS)
def test_the_line_for_llama_server(model: Path, tmp_path: Path, budget: int) -> None:
    folder = tmp_path / "out"
    (line,) = export(model, folder, "llama.cpp", image_tokens=budget).commands
    words = shlex.split(line)
    assert words[0] == "llama-server"
    for name, prefix in (("--model", ""), ("--mmproj", "mmproj-"), ("--spec-draft-model", "mtp-")):
        assert option(words, name) == str(folder / f"{prefix}m.gguf")
        assert Path(option(words, name)).is_file()
    assert option(words, "--spec-type") == "draft-mtp"
    assert option(words, "--image-max-tokens") == str(budget)
    assert int(option(words, "--ubatch-size")) >= max(512, budget)  # a picture is one micro-batch, or it aborts


def llama_cpp_size(width: int, height: int, low: int, high: int) -> tuple[int, int]:
    """(width, height) that llama.cpp makes of a picture, from its rule: to the nearest block, then into the limits."""
    block, area = 48, 48 * 48
    sides = [max(block, int(side / block + 0.5) * block) for side in (width, height)]
    if sides[0] * sides[1] > high * area:
        scale = (high * area / (width * height)) ** 0.5
        return tuple(max(block, int(side * scale / block) * block) for side in (width, height))  # type: ignore[return-value]
    if sides[0] * sides[1] < low * area:
        scale = (low * area / (width * height)) ** 0.5
        return tuple(-int(-side * scale // block) * block for side in (width, height))  # type: ignore[return-value]
    return sides[0], sides[1]


RATIOS = (1, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3, 9 / 16)  # of cameras and screens


@pytest.mark.parametrize(("budget", "share"), [(70, 0.70), (140, 0.80), (280, 0.97), (560, 0.90), (1120, 0.73)])
def test_the_image_budget_gives_the_references_sizes(budget: int, share: float) -> None:
    """Most pictures come out at the reference's size, and what has that size already keeps it."""
    dice = np.random.default_rng(0)
    same, total = 0, 2000
    for _ in range(total):
        ratio, side = dice.choice(RATIOS), np.exp(dice.uniform(np.log(64), np.log(3500)))
        width, height = int(side * ratio**0.5), int(side / ratio**0.5)
        wanted = target_size(height, width, budget)[::-1]
        same += llama_cpp_size(width, height, MIN_TOKENS[budget], budget) == wanted
        assert llama_cpp_size(*wanted, MIN_TOKENS[budget], budget) == wanted
    assert same / total > share


@pytest.mark.parametrize("budget", MIN_TOKENS)
def test_no_picture_outgrows_its_micro_batch(model: Path, tmp_path: Path, budget: int) -> None:
    """llama.cpp aborts where one does, so that this must hold for every picture up to 100 times as long as wide."""
    (line,) = export(model, tmp_path / "out", "llama.cpp", image_tokens=budget).commands
    room = int(option(shlex.split(line), "--ubatch-size"))
    for ratio in np.geomspace(1, 100, 3000):
        for side in (40, 300, 1000):
            width, height = llama_cpp_size(
                round(side * ratio**0.5), round(side / ratio**0.5), MIN_TOKENS[budget], budget
            )
            assert width * height <= room * 48 * 48


def test_the_layout_for_lm_studio(model: Path, tmp_path: Path) -> None:
    result = export(model, tmp_path / "out", "lmstudio")
    assert {str(f.path.relative_to(tmp_path / "out")) for f in result.files} == {
        "gemma4gguf/m/m.gguf",
        "gemma4gguf/m/mmproj-m.gguf",
        "gemma4gguf/m/README.md",
    }
    readme = (tmp_path / "out/gemma4gguf/m/README.md").read_text()
    assert "newer than 0.4.12" in readme
    assert "b9503" in readme
    assert "Not there: drafts" in readme
    assert all(len(line) < 121 for line in readme.splitlines())
    assert any("drafter stays behind" in note for note in result.notes)


def test_a_modelfile(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    result = export(model, folder, "ollama")
    lines = [line.split(maxsplit=1) for line in (folder / "Modelfile").read_text().splitlines()]
    sources = [rest for word, rest in lines if word in ("FROM", "DRAFT")]
    assert sources == ["./m.gguf", "./mmproj-m.gguf", "./mtp-m.gguf"]
    assert len({(folder / source).resolve() for source in sources}) == 3  # never the same path twice
    assert all((folder / source).is_file() for source in sources)
    assert [word for word, _ in lines] == ["FROM", "FROM", "DRAFT", "RENDERER", "PARSER", *["PARAMETER"] * 5]
    assert dict(lines[3:5]) == {"RENDERER": "gemma4-large", "PARSER": "gemma4"}
    assert [rest for word, rest in lines if word == "PARAMETER"] == [
        "temperature 1",
        "top_k 64",
        "top_p 0.95",
        'stop "<turn|>"',
        'stop "<|tool_response>"',
    ]
    assert result.commands[0] == f"ollama create m -f {folder}/Modelfile"


def test_ollamas_rules_for_a_projector(model: Path, tmp_path: Path) -> None:
    """Facts of its source (server/create.go): what makes a file a model, a projector or an error there."""
    export(model, tmp_path, "ollama")
    kinds = {}
    for prefix in PREFIX.values():
        reader = GGUFReader(tmp_path / f"{prefix}m.gguf")
        fields = {name: field.contents() for name, field in reader.fields.items()}
        architecture = fields["general.architecture"]
        blocks = fields.get(f"{architecture}.block_count", 0)
        encoder = fields.get("clip.has_vision_encoder") or fields.get("clip.has_audio_encoder")
        by_type = fields.get("general.type") in ("projector", "mmproj")
        by_keys = architecture == "clip" and blocks == 0 and bool(encoder)
        assert by_type == by_keys
        kinds[prefix] = "projector" if by_type else architecture
        # Names that would make a text model another model's tower there.
        towers = [t.name for t in reader.tensors if t.name.startswith(("v.", "a.", "mm."))]
        assert bool(towers) == by_type
        # Alignment and bounds: every tensor lies in the file, at a multiple of the alignment.
        size = (tmp_path / f"{prefix}m.gguf").stat().st_size
        assert all(t.data_offset % 32 == 0 and t.data_offset + t.n_bytes <= size for t in reader.tensors)
    assert kinds == {"": "gemma4", "mmproj-": "projector", "mtp-": "gemma4-assistant"}


def test_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["export", str(model), str(tmp_path / "out"), "--for", "llama.cpp"]
    assert run(cli, line) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1].startswith("llama-server --model ")
    assert "b9503" in shown.err
    assert run(cli, line) == 1
    assert "exists already" in capsys.readouterr().err
    assert run(cli, [*line, "--force", "--json", "--copy", "--image-tokens", "70"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [f["how"] for f in report["files"]] == ["cut"] * 3
    assert "--image-max-tokens 70" in report["commands"][0]
    assert run(cli, ["export", str(model), str(tmp_path / "out")]) == 2
    assert run(cli, [*line[:3], "--for", "jan"]) == 1
