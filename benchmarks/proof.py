#!/usr/bin/env python3
"""What `gemma4gguf verify FILE --against SOURCE` takes: seconds and private memory of each stage, and its verdict.

    benchmarks/proof.py BUNDLE CHECKPOINT [--drafter CHECKPOINT] [--quick] [--threads N] [--spoil]

Stages: verify (every byte of the file), tensors (each quantised again), engine (llama.cpp reads the prompts, with the
file's weights), layers (each computed again from the engine's input), source (the source's own predictions). What the
engine holds counts too. Prints JSON with every fault. Linux only: it reads /proc.

--spoil changes the bundle first, in place, and puts it back at the end: a matrix of layer 0 becomes that of layer 1,
one scale in layer 5 (the first full one at the 12B's shapes) changes its sign, and the template is another model's.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.proof.report import prove
from gemma4gguf.tools.verify import faults
from tests.support.private import SAMPLE_SECONDS, private_mb

TAKEN, GIVEN, SCALED = "blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.5.ffn_gate.weight"
OTHERS = b"{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


class Stages:
    """Seconds and the peak of private MB, by stage. `tell` is a progress function: what went by since its last call
    belongs to the stage that it is called with.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mb: dict[str, float] = {}
        self._told, self._peak, self._over = time.monotonic(), 0.0, threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def tell(self, done: int, total: int, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = self.seconds.get(stage, 0) + now - self._told
        self.peak_mb[stage] = max(self.peak_mb.get(stage, 0), self._peak)
        self._told, self._peak = now, 0.0
        print(f"{stage}: {done:,} of {total:,}, {self.seconds[stage]:.0f} s", file=sys.stderr, flush=True)

    def end(self) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(10 * SAMPLE_SECONDS):
            self._peak = max(self._peak, private_mb())


@contextmanager
def spoiled(file: Path) -> Iterator[None]:
    """The file with three faults; as it was when the block is left."""
    text = Bundle.open(file).text
    start, size = text.header.start, text.header.data_start - text.header.start
    at = {name: text.header.data_start + text.tensors[name].offset for name in (TAKEN, GIVEN, SCALED)}
    template = text.metadata["tokenizer.chat_template"].encode()
    with file.open("r+b") as held:

        def read(position: int, count: int) -> bytes:
            held.seek(position)
            return held.read(count)

        def write(changes: list[tuple[int, bytes]]) -> None:
            for position, data in changes:
                held.seek(position)
                held.write(data)
            held.flush()

        taken = text.tensors[TAKEN].nbytes
        scale = read(at[SCALED], 2)
        words = start + read(start, size).index(template)
        before = [(at[TAKEN], read(at[TAKEN], taken)), (at[SCALED], scale), (words, template)]
        flipped = bytes([scale[0], scale[1] ^ 0x80])
        other = OTHERS.ljust(len(template))[: len(template)]  # in place, so as long as it was
        try:
            write([(at[TAKEN], read(at[GIVEN], taken)), (at[SCALED], flipped), (words, other)])
            yield
        finally:
            write(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--drafter", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--spoil", action="store_true")
    given = parser.parse_args()
    stages, how = Stages(), {"drafter": given.drafter, "quick": given.quick, "threads": given.threads}
    with spoiled(given.bundle) if given.spoil else nullcontext():
        wrong = faults(given.bundle, lambda done, total: stages.tell(done, total, "verify"))
        report = prove(given.bundle, given.source, progress=stages.tell, **how)
    stages.end()
    found = {
        "verdict": report.verdict,
        "faults": wrong + report.faults,
        "seconds": {name: round(s) for name, s in stages.seconds.items()},
        "peak_mb": {name: round(mb) for name, mb in stages.peak_mb.items()},
        "off": max((place.off for place in report.places), default=0.0),
        "logits": [asdict(each) for each in report.logits],
    }
    print(json.dumps(found, indent=1))
    sys.exit(bool(found["faults"]))


if __name__ == "__main__":
    main()
