"""Names: what native/ looks up in the bindings, in their structs and in the libraries."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as T

from gemma4gguf.native import extensions, quantizer
from gemma4gguf.native.library import C, version

NATIVE = Path(extensions.__file__).parent
STRUCTS = {"context.py": "llama_context_params", "weights.py": "llama_model_params"}  # of each module's `params`


def trees() -> Iterator[tuple[str, ast.AST]]:
    yield from ((path.name, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(NATIVE.glob("*.py")))


def attributes(tree: ast.AST, of: str) -> set[str]:
    """The names X of every `of.X` in a module."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == of}


def test_every_name_of_the_bindings_that_we_use() -> None:
    used = set().union(*(attributes(tree, "C") for _, tree in trees()))
    assert {"llama_decode", "llama_memory_seq_rm", "llama_model_load_from_file_ptr"} <= used
    assert not [name for name in sorted(used) if not hasattr(C, name)]
    assert version()


def test_every_parameter_that_we_set_is_a_field_of_its_struct() -> None:
    """A field of another name would be set on the Python object alone, and C would never see it."""
    for name, tree in trees():
        if name in STRUCTS:
            fields = {field[0] for field in getattr(C, STRUCTS[name])._fields_}
            used = attributes(tree, "params")
            assert used
            assert used <= fields, sorted(used - fields)
    assert {"n_tokens", "token", "embd", "pos", "n_seq_id", "seq_id", "logits"} == {
        f[0] for f in C.llama_batch._fields_
    }


@pytest.mark.parametrize("name", list(extensions._EXTENSIONS))
def test_the_functions_of_drafting_that_are_looked_up_by_name(name: str) -> None:
    assert extensions.extension(name) is not None
    assert not extensions.missing_for_drafts()


def test_ggml_base_has_the_quantiser() -> None:
    assert quantizer.library_path().is_file()
    assert not quantizer.requires_importance(T.Q4_0)
