"""The stand-in's tokenizer.json, written by hand: a byte-fallback BPE like the 12B's, with 1024 entries.

Comes in: how large the table is. Goes out: a vocabulary, its merges and the file as a dict. The special ids are the
12B's, but for the media tokens, which sit at the end of the smaller table. Knows nothing about the model.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple


class Table(NamedTuple):
    """How many entries, and where the media tokens are."""

    size: int
    boi: int
    boa: int
    image: int
    audio: int
    eoi: int
    eoa: int
    video: int


SMALL = Table(1024, 1016, 1017, 1019, 1020, 1021, 1022, 1023)
REAL = Table(262144, 255999, 256000, 258880, 258881, 258882, 258883, 258884)
VOCABULARY, BOI, BOA, IMAGE, AUDIO, EOI, EOA, VIDEO = SMALL
# fmt: off
SPECIAL = {
    0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>", 46: "<|tool>", 47: "<tool|>", 48: "<|tool_call>",
    49: "<tool_call|>", 50: "<|tool_response>", 51: "<tool_response|>", 52: '<|"|>', 98: "<|think|>",
    100: "<|channel>", 101: "<channel|>", 105: "<|turn>", 106: "<turn|>",
}
MEDIA = ("<|image>", "<|audio>", "<|image|>", "<|audio|>", "<image|>", "<audio|>", "<|video|>")  # in a Table's order
# fmt: on
NEWLINES, SPACES, STRIKE, BYTES, CHARACTERS = 107, 138, 212, 238, 494  # where each kind of entry starts
LONGEST_RUN = 31  # newlines or spaces in one entry
ALPHABET = (
    "\t"
    + "".join(map(chr, range(33, 127)))
    + ("àâçéèêëîïôöùûüßñøåłžčœ«»„“”‘’–—…€£°×·АБабвгдежиклмнорст你好世界日本語한글😀🎉👍")
)
# What stands in every turn is one token each in the 12B. The small table is full before them.
WORDS = ("user", "model", "thought", "system")
CORPUS = """The quick brown fox jumps over the lazy dog. What is in this picture? There is a cat on the table, and the
weather in Paris is sunny. I think that these are the things which the other ones want to hear and see. It was the
best of times, it was the worst of times. How many words are there in this sentence? def main(arguments): return [token
for token in tokens if token not in seen]; import numpy as np; for (int i = 0; i < n; i++) { sum += values[i]; } Où est
le café? C'est la même chose, très élégante, à côté de la forêt. Die Größe über alles Schöne, natürlich. El niño señaló
mañana. Привет, дорогие друзья, как дела на работе? 你好世界 日本語 한글 😀🎉 one two three four five six seven eight
nine ten 0 1 2 3 4 5 6 7 8 9 10 100 1000 2026. The transcription of the voice message and the description of the image
are here. Answer in one sentence, please. <b>bold</b> <i>text</i> <table> <div class="x"> </s> https://www.example.com
and then the next thing."""


def special(table: Table) -> dict[int, str]:
    return SPECIAL | dict(zip(table[1:], MEDIA, strict=True))


def vocabulary(table: Table = SMALL) -> tuple[dict[str, int], list[list[str]]]:
    """Every entry's text and id, and the merges.

    Like the 12B's: runs of newlines and of spaces, HTML-like text (212 is `</s>`), the 256 bytes, characters, and
    pieces that merge. Each piece lists every split of it into two entries, the best piece first.
    """
    runs = [(NEWLINES, "\n"), (SPACES, "▁")]
    entries = special(table) | {STRIKE: "</s>"}
    for start, character in runs:
        entries |= {start + n - 1: character * n for n in range(1, LONGEST_RUN + 1)}
    entries |= {BYTES + b: f"<0x{b:02X}>" for b in range(256)}
    entries |= {CHARACTERS + i: character for i, character in enumerate(ALPHABET)}
    strike = ["</", "</s", "</s>"]
    starts = [word[:end] for word in WORDS for end in range(2, len(word) + 1)]
    pieces = [p for p in dict.fromkeys([*learn_pieces(400), *starts]) if p not in strike and p not in entries.values()]
    free = [i for i in range(CHARACTERS + len(ALPHABET), table.boi) if i not in entries]
    entries |= dict(zip(free, strike[:2] + pieces, strict=False))
    names = {entries.get(i, f"<unused{i}>"): i for i in range(table.size)}
    mergeable = [c * n for n in range(2, LONGEST_RUN + 1) for _, c in runs] + strike + pieces
    known = set(entries.values()) - set(special(table).values())
    splits = [(p[:k], p[k:]) for p in mergeable if p in known for k in range(1, len(p))]
    return names, [[left, right] for left, right in splits if left in known and right in known]


def learn_pieces(count: int) -> list[str]:
    """The most frequent pairs of the corpus, as byte-pair encoding finds them; a piece is a word or a part of one."""
    words = [["▁", *word] for word in CORPUS.split()]
    pieces: list[str] = []
    for _ in range(count):
        pairs: dict[tuple[str, str], int] = {}
        for word in words:
            for pair in pairwise(word):
                pairs[pair] = pairs.get(pair, 0) + 1
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        pieces.append("".join(best))
        words = [_join(word, best) for word in words]
    return pieces


def _join(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def tokenizer_json(table: Table = SMALL) -> dict[str, Any]:
    """The file's content. Spaces become U+2581, nothing is split before merging, unknown characters become bytes."""
    names, merges = vocabulary(table)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    space = {"String": " "}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, **flags} for i, text in sorted(special(table).items())],
        "normalizer": {"type": "Replace", "pattern": space, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": space, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": names,
            "merges": merges,
        },
    }
