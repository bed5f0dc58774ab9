"""The tiny tokenizer: byte-fallback BPE of 2,048 entries, trained on the project's own generated text.

In: lines of text. Out: a `tokenizers.Tokenizer`. Merges never cross a word, a newline or a sign, so the one pass over
the whole text that Gemma's tokenizer makes (no split at spaces) gives the same pieces as a split at words would.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from .config import NEWLINE, SPECIAL, VOCAB

SPACE = "▁"  # U+2581, what a space becomes
NEWLINE_RUNS = 8  # "\n" to eight of them are tokens of their own
LETTERS = [chr(c) for c in range(33, 127)] + list("°é–")


def learn_merges(lines: Iterable[str], count: int) -> list[tuple[str, str]]:
    """[(left, right)] in order of use. Digits and signs stay single. A space joins a small word only:
    a name is written with the same tokens wherever it stands, so copying one into a tool call is copying tokens.
    """
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Replace(" ", SPACE)
    words = Regex(SPACE + "?[a-z]+|[A-Z]+[a-z]*|[^A-Za-z]")
    tok.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    tok.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=len(LETTERS) + 1 + count + 64,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=[*LETTERS, SPACE],
        ),
    )
    pairs = [(left, right) for left, right in json.loads(tok.to_str())["model"]["merges"]]
    return [p for p in pairs if "\n" not in "".join(p) and (SPACE not in p[0][1:]) and SPACE not in p[1]][:count]


def build(lines: Iterable[str]) -> Tokenizer:
    names = dict(SPECIAL.items())
    runs = ["\n" * n for n in range(2, NEWLINE_RUNS + 1)]
    names[NEWLINE] = "\n"
    slots = iter(i for i in list(range(NEWLINE + 1, VOCAB)) + list(range(5, NEWLINE)) if i not in names)
    for name in runs + [f"<0x{b:02X}>" for b in range(256)] + [SPACE] + LETTERS:
        names[next(slots)] = name
    # every way to split a run, shortest first: a run of up to eight always ends as one token
    merges = [("\n" * (n - tail), "\n" * tail) for n in range(2, NEWLINE_RUNS + 1) for tail in range(1, n)]
    known = set(names.values())
    for left, right in learn_merges(lines, VOCAB):
        if left in known and right in known:
            if left + right not in known:
                slot = next(slots, None)
                if slot is None:
                    break
                names[slot] = left + right
                known.add(left + right)
            merges.append((left, right))
    vocab = {names.get(i, f"<unused{i}>"): i for i in range(VOCAB)}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tok.normalizer = normalizers.Replace(" ", SPACE)
    tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tok.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL.values()])
    return tok
