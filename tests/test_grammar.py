"""Grammars: read, checked, run; and an automaton that allows what llama.cpp's own sampler allows."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from gemma4gguf.chat.guards import SPECIAL_TOKENS
from gemma4gguf.errors import InputError
from gemma4gguf.forms.gbnf import MARKS, parse
from gemma4gguf.forms.notation import Json
from gemma4gguf.forms.schema import schema_grammar
from gemma4gguf.forms.tokens import Tokens
from gemma4gguf.native.library import C
from gemma4gguf.native.vocabulary import Vocabulary
from gemma4gguf.native.weights import Weights
from gemma4gguf.runtime.prompt import token_id
from tests.support.schemas import accepts, rooted

# (grammar, texts of it, texts that are none)
GRAMMARS: dict[str, tuple[str, list[str], list[str]]] = {
    "literals": ('root ::= "a\\x41\\u00e9" | "\\"\\\\\\n"', ["aAé", '"\\\n'], ["a", "aAe"]),
    "classes": ("root ::= [a-c\\]é東-] [^a-c]", ["ax", "]é", "-🙂", "東\n"], ["xa", "aa", "a"]),
    "any character": ("root ::= . .", ["ab", "é🙂", "\n "], ["a", "abc"]),
    "repetitions": (
        'root ::= "a"{2} "b"{1,} "c"{0,2} "d"? "e"*',
        ["aab", "aabbccdee"],
        ["ab", "aa", "aabccc", "aabdd"],
    ),
    "groups": ('root ::= ("a" | "b" ("c" |\n "d"))+ # a comment\n', ["a", "bdabc"], ["", "b", "c"]),
    "rules": (
        'root ::= list\nlist ::= "[" (item ("," item)*)? "]"\nitem ::= [0-9] | list\n',
        ["[1,[2,[]]]"],
        ["[,]", "["],
    ),
    "repeating what may be empty": ('root ::= (a b)* "x"\na ::= "y"?\nb ::= "z"?\n', ["x", "yzzyx"], ["y"]),
    "two ways to read": ('root ::= "a" root | "a" root | "b"', ["b", "a" * 200 + "b"], ["a" * 200]),
    "long repetitions": ("root ::= [a-z]{0,2000}", ["", "x" * 2000], ["x" * 2001]),
    "JSON": ("root ::= object\n" + Json.rules, ['{"a": [1, -2.5e3, "\\u00e9", {}]}'], ["{", "[]", '{"a":+1}']),
}


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_grammar_writes_its_texts_and_no_others(name: str) -> None:
    grammar, right, wrong = GRAMMARS[name]
    assert [text for text in right if not accepts(grammar, text)] == []
    assert [text for text in wrong if accepts(grammar, text)] == []


# (grammar, what is wrong with it)
BAD: dict[str, tuple[str, str]] = {
    "no root": ('a ::= "x"', "there is no rule root"),
    "empty": ("", "there is no rule root"),
    "a name that is not defined": ("root ::= a", "rule a is used and not defined"),
    "twice": ('root ::= "a"\nroot ::= "b"', "line 2: rule root is defined twice"),
    "no end of a literal": ('root ::= "a', "line 1: unexpected end"),
    "no end of a class": ("root ::= [a", "line 1: unexpected end"),
    "an empty class": ("root ::= []", "line 1: an empty"),
    "nothing left in a class": ("root ::= [^\\U00000000-\\U0010FFFF]", "line 1: a [ ] that no character fits"),
    "a range from its end": ("root ::= [z-a]", "line 1: a range whose end"),
    "an unknown escape": ('root ::= "\\q"', "line 1: expected a character"),
    "half a surrogate pair": ('root ::= "\\uD800"', "line 1: expected a character of Unicode"),
    "beyond Unicode": ('root ::= "\\U00110000"', "line 1: expected a character of Unicode"),
    "a token": ('root ::= "a"\nb ::= <|image>', "line 2: expected one of the marks <|tool_call>"),
    "nothing to repeat": ("root ::= *", "line 1: expected something before *"),
    "an open group": ('root ::= ("a"', "line 1: expected )"),
    "a closed group": ('root ::= "a")', "line 1: expected the end of the line"),
    "no definition": ("root = 1", "line 1: expected ::="),
    "bad counts": ('root ::= "a"{x}', "line 1: expected {N}"),
    "counts the wrong way": ('root ::= "a"{3,2}', "line 1: expected at most 2,000 repetitions"),
    "no end of a rule": ('root ::= "a" root', "rule root has no end"),
    "itself": ('root ::= root "a" | "b"', "rule root begins with itself"),
    "itself by another": ('root ::= a | "x"\na ::= root "b"', "begins with itself"),
    "itself behind what may be empty": ('root ::= b root "c" | "x"\nb ::= d\nd ::= ""', "begins with itself"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_grammar_is_told_in_one_line(name: str) -> None:
    grammar, told = BAD[name]
    with pytest.raises(InputError) as error:
        parse(grammar)
    assert str(error.value).startswith("grammar: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def vocab(tiny_bundle: Path) -> Iterator[Vocabulary]:
    with Weights(tiny_bundle, vocab_only=True) as weights:
        yield weights.vocab


@pytest.fixture(scope="module")
def tokens(vocab: Vocabulary) -> Tokens:
    pieces = [vocab.piece(token, special=False) for token in range(vocab.size)]
    return Tokens(pieces, {mark: token_id(vocab, mark) for mark in MARKS}, end_ids(vocab))


def end_ids(vocab: Vocabulary) -> frozenset[int]:
    """What llama.cpp takes for the end of an answer."""
    return frozenset(i for i in range(vocab.size) if C.llama_vocab_is_eog(vocab._handle, i))


def allowed_by_llama(sampler: ctypes.c_void_p, size: int) -> NDArray[np.bool_]:
    """Bool [vocabulary]: what llama.cpp's grammar sampler leaves of all tokens."""
    data = np.zeros(size, [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
    data["id"] = np.arange(size)
    array = C.llama_token_data_array(data.ctypes.data_as(C.llama_token_data_p), size, -1, False)
    C.llama_sampler_apply(sampler, ctypes.byref(array))
    return np.asarray(np.isfinite(data["logit"]))


CALL = f'root ::= ({MARKS[0]} "call:f{{a:" {MARKS[2]} [^<]* {MARKS[2]} "}}" {MARKS[1]})+'


@pytest.mark.parametrize(
    "grammar",
    [*(GRAMMARS[name][0] for name in ("classes", "repetitions", "rules", "JSON")), CALL]
    + [schema_grammar(rooted(Random(seed))) for seed in range(4)],
)
def test_the_tokens_that_fit_are_those_of_llama(tokens: Tokens, vocab: Vocabulary, grammar: str) -> None:
    """Step by step along an answer by chance: one token alone, and all at once, as llama.cpp's sampler has it.

    But for three things of its: special tokens count as the text that shows them, bytes that UTF-8 never has fit where
    any character does, and the character 0 never fits.
    """
    pieces = [vocab.piece(token, special=False) for token in range(vocab.size)]
    shown = [vocab.piece(token, special=True).decode("utf-8", "replace") for token in range(vocab.size)]
    usual = np.array(
        [p not in (b"", b"\0") and p < b"\xf5" and s not in SPECIAL_TOKENS for p, s in zip(pieces, shown, strict=True)]
    )
    random, automaton = Random(1), tokens.automaton((grammar,))
    state = automaton.start
    sampler = C.llama_sampler_init_grammar(vocab._handle, grammar.encode(), b"root")
    try:
        for _ in range(60):
            fits = tokens.fitting(automaton, state)
            assert np.array_equal(fits[usual], allowed_by_llama(sampler, vocab.size)[usual])
            behind = [tokens.behind(automaton, state, token) for token in range(vocab.size)]
            assert fits.tolist() == [each is not None for each in behind]
            going_on = [token for token in np.flatnonzero(fits).tolist() if token not in tokens.end]
            if not going_on:
                break
            token = random.choice(going_on)
            C.llama_sampler_accept(sampler, token)
            found = behind[token]
            assert found
            state = found
    finally:
        C.llama_sampler_free(sampler)


def test_the_end_of_an_answer_fits_only_where_the_grammar_ends(tokens: Tokens, vocab: Vocabulary) -> None:
    automaton = tokens.automaton(('root ::= "a" "b"?',))
    behind = tokens.behind(automaton, automaton.start, vocab.tokenize("a", special=False)[0])
    assert behind
    for end in tokens.end:
        assert tokens.behind(automaton, automaton.start, end) is None
        assert tokens.behind(automaton, behind, end) is behind
