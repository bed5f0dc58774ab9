"""A model by its name: where it is looked for, and what is said when it is not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gemma4gguf.bundle.finding import find_model, model_names
from gemma4gguf.bundle.finding import models_folder as folder_of_models
from gemma4gguf.cli import cli, run
from gemma4gguf.errors import Gemma4Error
from gemma4gguf.tools.doctor import examine
from gemma4gguf.tools.models import models, remove


@pytest.fixture
def three(models_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with two models, one of them pulled, and one that is not finished."""
    monkeypatch.chdir(tmp_path)
    for name in ("gemma-4-12B-it-Q4_K_M", "mine"):
        (models_folder / f".{name}").mkdir(parents=True)
        (models_folder / f"{name}.gguf").write_bytes(b"GGUF")
    (models_folder / ".begun" / "text").mkdir(parents=True)
    (models_folder / ".begun" / "text" / "x.gguf.0123.partial").write_bytes(b"12345")
    record = {"repo": "Owner/Gemma-GGUF", "type": "Q4_K_M", "commit": "c", "licence": "l", "sha256": ["0"]}
    for name in ("gemma-4-12B-it-Q4_K_M", "begun"):
        (models_folder / f".{name}" / "pulled.json").write_text(json.dumps(record))
    (models_folder / ".mine" / "pulled.json").write_text("{damaged")
    return models_folder


def test_names_paths_and_hub_ids(three: Path, tmp_path: Path) -> None:
    q4, mine = three / "gemma-4-12B-it-Q4_K_M.gguf", three / "mine.gguf"
    assert find_model("gemma-4-12B-it-Q4_K_M") == find_model("gemma-4-12B-it-Q4_K_M.gguf") == q4
    assert find_model("owner/gemma-GGUF") == find_model("Owner/Gemma-GGUF:q4_k_m") == q4
    assert find_model("mine") == find_model(Path("mine")) == find_model(str(mine)) == mine
    (tmp_path / "mine").mkdir()
    assert find_model("mine") == mine  # a folder is no model
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    assert find_model("mine.gguf") == Path("mine.gguf")  # a file here comes first
    for nothing in ("none.gguf", "a/b/c", "./none", str(tmp_path / "none"), "a/b.gguf", "models/none", ""):
        assert find_model(nothing) == Path(nothing)
    assert model_names() == ["gemma-4-12B-it-Q4_K_M", "mine"]


HINTS = {
    "gemma-4-12b-Q4_K_M": "no such file, and no model of this name in .*; did you mean gemma-4-12B-it-Q4_K_M?",
    "zzz": "no model of this name in .*; `gemma4gguf list` shows",
    "a\0b": "no such file",
    "x" * 300: "no such file",
    "owner/other": "no such file; .* `gemma4gguf pull owner/other` fetches it",
    "owner/gemma-GGUF:Q8_0": "`gemma4gguf pull owner/gemma-GGUF:Q8_0` fetches it",
    "https://huggingface.co/o/m-GGUF": "is an address, .* `gemma4gguf pull o/m-GGUF` fetches it",
    "https://huggingface.co/o/m/tree/main": "`gemma4gguf pull o/m` fetches it",
    "https://huggingface.co/o/m/resolve/main/BF16/x-Q4_0.gguf?download=true": "`gemma4gguf pull o/m:BF16/x-Q4_0.gguf`",
    "hf.co/o/m:Q4_0": "`gemma4gguf pull o/m:Q4_0` fetches it",
    "https://example.org/model.gguf": "is an address, .*; download it first",
}


@pytest.mark.parametrize("given", HINTS)
def test_what_to_type(given: str, three: Path) -> None:
    for form in (given, Path(given)):
        with pytest.raises(Gemma4Error, match=HINTS[given]) as failure:
            find_model(form)
        assert "\n" not in str(failure.value)


def test_two_pulled_from_one_repository(three: Path) -> None:
    (three / ".mine" / "pulled.json").write_text(
        (three / ".begun" / "pulled.json").read_text().replace("Q4_K_M", "Q8_0")
    )
    assert find_model("Owner/Gemma-GGUF:Q8_0") == three / "mine.gguf"
    with pytest.raises(Gemma4Error, match="was pulled as gemma-4-12B-it-Q4_K_M and as mine; name one of them"):
        find_model("Owner/Gemma-GGUF")


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {}, "~/.local/share/gemma4gguf/models"),
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/gemma4gguf/models"),
        ("darwin", {}, "~/Library/Application Support/gemma4gguf/models"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/gemma4gguf/models"),
        ("linux", {"GEMMA4GGUF_MODELS": "~/here"}, "~/here"),
    ],
)
def test_where_the_folder_is(
    system: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GEMMA4GGUF_MODELS", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    assert folder_of_models() == Path(expected).expanduser()


def test_list_and_rm(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [(m.name, m.size, m.parts) for m in models()] == [
        ("begun", 0, 5),
        ("gemma-4-12B-it-Q4_K_M", 4, 0),
        ("mine", 4, 0),
    ]
    assert run(cli, ["list"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "model size from",
        "begun - Owner/Gemma-GGUF, unfinished, 5 B of parts",
        "gemma-4-12B-it-Q4_K_M 4 B Owner/Gemma-GGUF",
        "mine 4 B this machine",
    ]
    assert run(cli, ["list", "--json"]) == 0
    assert [m["name"] for m in json.loads(capsys.readouterr().out)["models"]] == [m.name for m in models()]
    assert run(cli, ["rm", "begun", "mine.gguf"]) == 0
    assert "begun: deleted, 5 B" in capsys.readouterr().out
    assert sorted(path.name for path in three.iterdir()) == [".gemma-4-12B-it-Q4_K_M", "gemma-4-12B-it-Q4_K_M.gguf"]
    for name, words in {
        "mine": "no model of this name",
        "../models": "is a path",
        "": "is no model",
        "owner/gemma-GGUF": "is a path",
    }.items():
        with pytest.raises(Gemma4Error, match=words):
            remove(name)
    remove("gemma-4-12B-it-Q4_K_M")
    assert run(cli, ["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(three), "models": []}


def test_doctor_tells_the_folder(three: Path) -> None:
    (told,) = [finding.value for finding in examine() if finding.name == "models folder"]
    assert told == f"{three}, 2 models"
