"""How many layers go to a GPU. There is none here: its memory is made up, and the layers stay on the processor."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from gemma4gguf import Gemma4
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.native.context import ContextOptions
from gemma4gguf.native.library import gpu_memory
from gemma4gguf.runtime import gpu as gpus
from gemma4gguf.runtime.gpu import MARGIN, gpu_layers, on_gpu, that_fit
from gemma4gguf.runtime.memory import Facts, memory

CONTEXT = ContextOptions(2048, sequences=2)


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def gpu(monkeypatch: pytest.MonkeyPatch, *free: int) -> None:
    monkeypatch.setattr(gpus, "gpu_memory", lambda: list(free))


def test_all_layers_take_what_the_plan_says(bundle: Bundle) -> None:
    """Its weights but for two small ones of no layer, the caches, the work and the drafter."""
    facts = Facts.of(bundle.sections)
    needed = on_gpu(facts, CONTEXT, drafts=True)
    assert len(needed) == len(facts.model.layers) + 2
    assert needed[0] == 0
    assert needed == sorted(set(needed))
    plan = memory(facts, CONTEXT, repacked=())
    norms = sum(t.nbytes for t in facts.text.tensors if t.name in ("output_norm.weight", "rope_freqs.weight"))
    whole = plan.weights.total + plan.cache.private + plan.compute.private + plan.drafter.total - norms
    assert needed[-1] == whole
    assert on_gpu(facts, CONTEXT, drafts=False)[-1] == whole - plan.drafter.total


def test_the_last_layers_come_first(bundle: Bundle) -> None:
    """The last one is a full layer: it holds the whole context, where the first holds a window."""
    needed = on_gpu(Facts.of(bundle.sections), ContextOptions(65_536), drafts=False)
    assert needed[2] - needed[1] > needed[-1] - needed[-2]


def test_as_many_layers_as_fit() -> None:
    assert [that_fit([0, 10, 15], [MARGIN + size]) for size in (0, 9, 10, 14, 15, 99)] == [0, 0, 1, 1, 2, 2]
    assert that_fit([0, 10, 15], [MARGIN + 8, 5, MARGIN + 7]) == 2  # several share them
    assert that_fit([0, 10, 15], [MARGIN - 1]) == 0


def test_auto_goes_by_what_is_free(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = on_gpu(Facts.of(bundle.sections), CONTEXT, drafts=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gpu_layers(bundle, CONTEXT, drafts=True) == -1  # no GPU
        gpu(monkeypatch, MARGIN + needed[-1])
        assert gpu_layers(bundle, CONTEXT, drafts=True) == -1
    gpu(monkeypatch, MARGIN + needed[4])
    with pytest.warns(UserWarning, match=f": 4 of {len(needed) - 1} layers are computed on it"):
        assert gpu_layers(bundle, CONTEXT, drafts=True) == 4


def test_a_model_says_that_a_gpu_is_too_small(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, 1)
    with pytest.warns(UserWarning, match="0 of"), Gemma4(tiny_bundle, context=512) as model:
        assert model.engine.options.gpu_layers == 0
    with (
        pytest.warns(UserWarning, match="built without a GPU"),
        Gemma4(tiny_bundle, context=512, gpu_layers=3) as model,
    ):
        assert model.engine.options.gpu_layers == 3


def test_the_memory_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor is a device that every build has; here it stands for a GPU."""
    assert gpu_memory() == []
    monkeypatch.setattr("gemma4gguf.native.library._GPU_TYPES", (7, 0))
    (free,) = gpu_memory()
    assert free > 1 << 20
