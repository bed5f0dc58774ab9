"""`pull`: published parts become the bundle that `pack` makes of them, from a Hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gemma4gguf.bundle.finding import find_model, hidden_folder
from gemma4gguf.cli import cli, run
from gemma4gguf.tools.models import models
from gemma4gguf.tools.offer import look, verdict
from gemma4gguf.tools.pack import pack
from gemma4gguf.tools.plan import plan
from gemma4gguf.tools.pull import pull
from tests.support.hub import Hub, Repository
from tests.support.published import Layout

GGML = "prefixes, several types"
LAYOUTS = (
    "a text model and a projector of the same name",
    GGML,
    "folders, a split, several projectors and drafters",
    "a drafter elsewhere, the projector in F16",
    "names that tell nothing",
)


def packed(layout: Layout, out: Path) -> bytes:
    """What `pack` makes of the files that the layout should be taken for."""
    files = {path: file for repository in layout.repositories.values() for path, file in repository.files.items()}
    pack(files[layout.text], out, embedder=files[layout.embedder], drafter=files.get(layout.drafter or ""), force=True)
    return out.read_bytes()


def contents(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_as_they_are_published(
    name: str, layouts: dict[str, Layout], models_folder: Path, tmp_path: Path, serve: Callable[[Layout], Hub]
) -> None:
    layout = layouts[name]
    hub = serve(layout)
    offer = look(layout.source, drafter=layout.drafter_from)
    before = hub.sent
    taken = [file.path for part in offer.parts for file in part.files]
    assert before < sum(file.size for part in offer.parts for file in part.files) / 4
    assert layout.text in taken
    result = pull(offer)
    assert result.path == models_folder / f"{layout.name}.gguf"
    expected = packed(layout, tmp_path / "expected.gguf")
    assert result.path.read_bytes() == expected
    assert offer.size == result.size == len(expected)
    assert result.notes == ()
    # Once and no more; the server may count the last piece of a header a moment later.
    assert result.fetched <= hub.sent - before <= result.fetched + (1 << 19)
    assert contents(models_folder) == sorted(
        [f".{layout.name}/lock", f".{layout.name}/pulled.json", f"{layout.name}.gguf"]
    )


def test_what_is_there_is_checked_and_not_fetched_again(
    layouts: dict[str, Layout], models_folder: Path, serve: Callable[[Layout], Hub]
) -> None:
    layout = layouts[GGML]
    hub = serve(layout)
    first = pull(look(layout.source))
    hub.asked.clear()
    stages = set[str]()
    again = pull(look(layout.source), progress=lambda done, total, stage: stages.add(stage))
    assert again == replace(first, fetched=0)
    assert stages == {"verify"}
    assert all(wanted and not wanted.endswith("-") for _, wanted in hub.asked)  # headers alone
    assert find_model(layout.source) == find_model(layout.name) == first.path


def test_parts_are_kept_on_demand_and_used_again(
    layouts: dict[str, Layout], models_folder: Path, serve: Callable[[Layout], Hub]
) -> None:
    layout = layouts[GGML]
    serve(layout)
    first = pull(look(layout.source), keep=True)
    kept = [path for path in contents(models_folder) if path.endswith(".gguf")]
    assert first.kept == hidden_folder(layout.name)
    assert len(kept) == 4
    assert models()[0].parts == sum((models_folder / path).stat().st_size for path in kept) - first.size
    whole = first.path.read_bytes()
    first.path.unlink()
    assert look(layout.source).missing == 0
    second = pull(look(layout.source))
    assert second.fetched == 0
    assert second.path.read_bytes() == whole


def test_types_and_files_by_name(
    layouts: dict[str, Layout], models_folder: Path, serve: Callable[[Layout], Hub]
) -> None:
    hub = serve(layouts[LAYOUTS[2]])
    repo = "unsloth/gemma-4-12b-it-GGUF"

    def text(source: str) -> str:
        return look(source).parts[0].files[0].path

    assert text(repo) == text(f"{repo}:q4_0") == text(f"{repo}:gemma-4-12b-it-Q4_0.gguf") == "gemma-4-12b-it-Q4_0.gguf"
    assert text(f"{repo}:Q4_K_XL") == text(f"{repo}:UD-Q4_K_XL") == "gemma-4-12b-it-UD-Q4_K_XL.gguf"
    offer = look(f"{repo}@main:Q4_0", drafter=f"{repo}:BF16", embedder=f"{repo}:F16")
    assert [part.files[0].path for part in offer.parts[1:]] == ["mmproj-F16.gguf", "MTP/gemma-4-12B-it-MTP-BF16.gguf"]
    assert [part.section for part in look(repo, text_only=True).parts] == ["gemma4"]
    assert look(repo, name="mine.gguf").path == models_folder / "mine.gguf"
    assert not hub.ranges_of("gemma-4-12b-it-Q4_0.gguf")


def test_command(
    layouts: dict[str, Layout], models_folder: Path, serve: Callable[[Layout], Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    layout = layouts[LAYOUTS[3]]
    serve(layout)
    line = ["pull", layout.source, "--drafter", "someone/assistant"]
    assert run(cli, [*line, "--dry-run"]) == 0
    told = capsys.readouterr().out
    for words in (
        "text model",
        "Q8_0",
        "someone/assistant/x-assistant-Q8_0.gguf",
        "licence apache-2.0",
        "to fetch: ",
        "memory: ",
    ):
        assert words in told
    assert not models_folder.exists()
    assert run(cli, [*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == str(models_folder / f"{layout.name}.gguf")
    assert found["record"]["licence"] == "apache-2.0"
    assert run(cli, ["list"]) == 0
    shown = capsys.readouterr().out
    assert layout.name in shown
    assert "bartowski/google_gemma-4-12B-it-GGUF" in shown
    assert run(cli, ["inspect", layout.name]) == 0
    assert run(cli, ["rm", layout.name]) == 0
    assert contents(models_folder) == []
    assert run(cli, ["rm", layout.name]) == 1
    assert "no such file, and no model of this name" in capsys.readouterr().err


def test_a_bundle_on_the_hub_brings_its_parts(
    bundle: Path, models_folder: Path, serve: Callable[[Layout], Hub], layouts: dict[str, Layout]
) -> None:
    """Nothing else is fetched: its own embedder and drafter belong to it."""
    files = layouts[GGML].repositories["ggml-org/gemma-4-12B-it-GGUF"].files
    mmproj = "mmproj-gemma-4-12B-it-bf16.gguf"
    repository = Repository({"gemma-F32.gguf": bundle, mmproj: files[mmproj]})
    serve(replace(layouts[GGML], repositories={"someone/gemma": repository}))
    offer = look("someone/gemma")
    assert [part.section for part in offer.parts] == ["gemma4"]
    assert offer.size == offer.missing == bundle.stat().st_size
    assert pull(offer).path.read_bytes() == bundle.read_bytes()


def test_a_name_that_tells_another_type_is_told(
    models_folder: Path, serve: Callable[[Layout], Hub], layouts: dict[str, Layout]
) -> None:
    files = layouts[GGML].repositories["ggml-org/gemma-4-12B-it-GGUF"].files
    mmproj = "mmproj-gemma-4-12B-it-bf16.gguf"
    repository = Repository({"gemma-Q6_K.gguf": files["gemma-4-12B-it-Q8_0.gguf"], mmproj: files[mmproj]})
    serve(replace(layouts[GGML], repositories={"someone/gemma": repository}))
    assert look("someone/gemma").notes == ("someone/gemma/gemma-Q6_K.gguf: its name says Q6_K, its header Q8_0",)


def test_the_verdict_on_memory(
    models_folder: Path,
    serve: Callable[[Layout], Hub],
    layouts: dict[str, Layout],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the plan of the finished bundle says, told before anything is fetched."""
    layout = layouts[GGML]
    serve(layout)
    offer = look(layout.source)
    told = verdict(offer)
    assert told.fits
    (choice,) = plan(pull(offer).path).choices
    assert (told.context, told.fits) == (choice.context, choice.fits)
    assert abs(told.needed - choice.memory.total) < 1 << 16  # the bundle's header has some more keys
    monkeypatch.setattr("gemma4gguf.tools.offer.memory_limit", lambda: 10_000_000)
    assert run(cli, ["pull", layout.source, "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "10.00 MB is there" in shown.out
    assert "does not fit into this machine's memory; take a smaller type" in shown.err
