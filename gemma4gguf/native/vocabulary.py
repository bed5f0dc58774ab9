"""The vocabulary of one GGUF: text to token ids, and token ids to bytes.

Loaded weights come in; ids of text and bytes of ids go out. A failure in C becomes a NativeError. This module does not
know which tokens a prompt or an answer needs.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any, Protocol

from ..errors import NativeError
from .library import C


class Owner(Protocol):
    """The weights that a vocabulary belongs to: their handle, and a lock that keeps it open while it is read."""

    lock: threading.Lock

    @property
    def handle(self) -> Any: ...


class Vocabulary:
    """Maps text to token ids and ids to bytes. Any thread may use it while the model is open."""

    def __init__(self, model: Owner) -> None:
        self._model = model
        self.size = int(C.llama_vocab_n_tokens(self._handle))

    @property
    def _handle(self) -> Any:
        return C.llama_model_get_vocab(self._model.handle)

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Ids of `text`, without BOS. `special`: text such as `<|turn>` becomes a special token, else plain text."""
        raw = text.encode("utf-8", "surrogatepass")
        room = len(raw) + 8
        out = (C.llama_token * room)()
        # int32_t llama_tokenize(vocab, text, text_len, tokens, n_tokens_max, add_special, parse_special);
        with self._model.lock:
            n = C.llama_tokenize(self._handle, raw, len(raw), out, room, False, special)
        if n < 0:
            raise NativeError(f"llama.cpp cannot tokenise a text of {len(raw):,} bytes")
        return list(out[:n])

    def piece(self, token: int, *, special: bool) -> bytes:
        """A token's bytes; none for a control token unless `special`."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            # int32_t llama_token_to_piece(vocab, token, buf, length, lstrip, special);
            with self._model.lock:
                n = C.llama_token_to_piece(self._handle, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def pieces(self) -> list[bytes]:
        """Every token's bytes, as `piece` gives them for texts: none for control tokens. Once for each model."""
        buffer = ctypes.create_string_buffer(256)
        found = []
        with self._model.lock:
            vocab, size = self._handle, len(buffer)
            for token in range(self.size):
                n = C.llama_token_to_piece(vocab, token, buffer, size, 0, False)
                found.append(ctypes.string_at(buffer, n) if n >= 0 else None)
        return [self.piece(token, special=False) if piece is None else piece for token, piece in enumerate(found)]

    def suppressed(self) -> list[int]:
        """Ids that the model must never emit, as listed in its file."""
        count = ctypes.c_int32(0)
        with self._model.lock:
            pointer = C.llama_vocab_get_suppress_tokens(self._handle, ctypes.byref(count))
            return [int(pointer[i]) for i in range(count.value)]
