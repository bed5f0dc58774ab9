"""A bundle's parts, loaded and at work: the seam between prompts and llama.cpp.

In: an opened bundle and how to load it; then prompts as segments. Out: chunks of an answer, or logits. Owns what is
native and its lifetime: weights, cache, drafter. Knows nothing of messages, templates or files' names.
"""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..arguments import whole
from ..bundle.reading import DRAFTER, Bundle, Section
from ..chat.rendering import Prompt, Segment
from ..errors import ContextError, FormatError, NativeError
from ..forms.gbnf import MARKS
from ..forms.tokens import Tokens
from ..media.audio import FRAME_SECONDS, TRAINED_SECONDS
from ..media.embedder import Embedder
from ..native import library
from ..native.context import Context, ContextOptions
from ..native.weights import Weights
from ..records import Chunk, Evaluation
from .answer import Reading, Rules, answer, room
from .asking import Progress
from .decode import Drafts
from .delivery import Start
from .disk import Disk, identity
from .drafter import Drafter, drafter_weights
from .fitting import LATEST_SOUND, warn_of_late_sound
from .form import Form, wanted
from .gpu import gpu_layers
from .hearing import Hearing, HearingPlace
from .keeping import Keeper
from .loading import load
from .options import Options
from .pace import Pace
from .places import Places
from .prompt import heard, spans, token_id
from .request import Request
from .scheduler import Scheduler
from .scoring import position_logits
from .session import Session, Span, Work

TRAINED_FRAMES = round(TRAINED_SECONDS / FRAME_SECONDS)
LEAST_FRAMES = 25  # a second; a sound that has room for less is heard elsewhere
ANSWER = 8  # an answer is left an eighth of the context


@dataclass(frozen=True)
class EngineOptions:
    """How a bundle is loaded. `draft`: "auto", or a number of tokens to draft at a time, 0 for none.

    `cache_memory`: bytes for what is kept of caches that had to make room. `cache_dir`: a folder for what outlives the
    process, of at most `cache_disk` bytes.
    """

    context: ContextOptions
    image_tokens: int
    gpu_layers: int = -1
    repack: bool = True
    draft: int | str = "auto"
    cache_memory: int = 0
    cache_dir: Path | None = None
    cache_disk: int = 0
    debug: bool = False


class Engine:
    """One loaded bundle. Raises NativeError where it cannot be loaded. Close it."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        started = time.perf_counter()
        library.started(options.debug)  # before two threads ask for it
        if options.gpu_layers < 0:
            options = replace(options, gpu_layers=gpu_layers(bundle, options.context, drafts=bool(options.draft)))
        self.bundle, self.options = bundle, options
        section = bundle.section(DRAFTER) if options.draft else None
        fixed = options.draft if isinstance(options.draft, int) else None
        self.pace = Pace(fixed, ratio=section.size / bundle.text.size if section else 1.0)
        with self._loading(section) as coming, ExitStack() as undo:  # a part that fails takes the others with it
            self.weights = undo.enter_context(self._load())
            context = undo.enter_context(Context(self.weights, options.context, hidden=bool(options.draft)))
            self.drafter = self._make_drafter(coming, context) if coming else None
            if self.drafter:
                undo.enter_context(self.drafter)
            self.rules = Rules.of(self.weights.vocab, bundle.text.metadata)
            undo.pop_all()
        self.keeper = keeper = Keeper(options.cache_memory)
        self.sessions = [Session(context, i, keeper, self.rules.end) for i in range(options.context.sequences)]
        folder, disk = options.cache_dir, None
        if folder:
            disk = Disk(folder, identity(bundle, options.context), options.cache_disk)
        self.scheduler = Scheduler(context, Places(context, self.sessions, keeper, disk))
        self._stop = weakref.finalize(self, self.scheduler.close)  # also where nobody closes the model
        self._scorer: Session | None = None
        self._opening = threading.Lock()  # held while the scorer is made
        self.load_s = time.perf_counter() - started  # told once, in the first answer

    @property
    def session(self) -> Session:
        """The first sequence: for tests and benchmarks that drive it themselves."""
        return self.sessions[0]

    def _load(self) -> Weights:
        given = self.options
        return load(self.bundle.text, gpu_layers=given.gpu_layers, repack=given.repack, debug=given.debug)

    @contextmanager
    def _loading(self, drafter: Section | None) -> Iterator[Future[Weights] | None]:
        """Load a drafter's weights beside the model's, on another core. If the block fails, they are freed."""
        if drafter is None:
            yield None
            return
        with ThreadPoolExecutor(1, thread_name_prefix="gemma4gguf-drafter") as pool:
            given = self.options
            coming = pool.submit(
                drafter_weights, drafter, self.bundle.text, gpu_layers=given.gpu_layers, repack=given.repack
            )
            try:
                yield coming
            except BaseException:
                if not coming.exception():
                    coming.result().close()
                raise

    def _make_drafter(self, coming: Future[Weights], context: Context) -> Drafter | None:
        """With "auto" a drafter that cannot load causes a warning, with a number an error."""
        try:
            return Drafter(coming.result(), context)
        except (FormatError, NativeError) as error:
            if self.options.draft != "auto":
                raise
            warnings.warn(f"decoding goes on without drafts: {error}", stacklevel=2)
            return None

    def close(self) -> None:
        """Free everything, once the call under way is done. Open streams raise InputError from then on."""
        running = self._stop.alive
        self._stop()
        if running:
            self.scheduler.places.close()
        with self._opening:
            sessions = [*self.sessions, *filter(None, [self._scorer])]
            for session in sessions:
                session.close()
            for owned in (self.drafter, *(session.context for session in sessions), self.weights):
                if owned:
                    owned.close()

    @cached_property
    def embedder(self) -> Embedder:
        return Embedder(self.bundle)

    @cached_property
    def tokens(self) -> Tokens:
        """The vocabulary, for grammars. The scheduler's thread alone works with it."""
        vocab, shown = self.weights.vocab, self.rules.visible  # marks are no text
        pieces = [b"" if token in shown else piece for token, piece in enumerate(vocab.pieces())]
        return Tokens(pieces, {mark: token_id(vocab, mark) for mark in MARKS}, self.rules.end)

    def spans(self, segments: Sequence[Segment]) -> list[Span]:
        """A prompt's segments as spans of token ids and soft tokens."""
        return spans(segments, self.weights.vocab, lambda: self.embedder, self.options.image_tokens)

    def request(
        self, prompt: Prompt, options: Options, on_progress: Progress | None = None, place: Hearing | None = None
    ) -> Request:
        """Prepare an answer, or several, whose seeds follow each other.

        Raises where a prompt does not fit, or media cannot be read. `on_progress` is told (positions read, of how many)
        while the prompt is read. `place`: where its beginning was heard.
        """
        assert place is None or isinstance(place, HearingPlace)
        started = time.perf_counter()
        self.bundle.text.check_unchanged()
        prepared = self.spans(prompt.segments)
        warn_of_late_sound(prepared)
        limit = min(options.max_tokens or self.options.context.context, room(self.session, prepared))
        options = options.numbered(0)
        size = self.weights.vocab.size
        for token in options.logit_bias or {}:
            whole("logit_bias: a token", token, lambda v: v < size, f"an id below {size:,}")
        asked = wanted(options.form, prompt.choice, prompt.words)
        may_think = prompt.may_think and not prompt.thinking_open
        form = partial(Form, self.tokens, asked, self.rules.thought_marks[0], may_think) if asked else None
        rules = self.rules.without_calls if prompt.choice.calls == "none" else self.rules
        load_s, self.load_s = self.load_s, 0.0
        prepare_s = time.perf_counter() - started

        def begin(number: int, session: Session) -> Iterator[Work | Reading | Chunk]:
            drafts = Drafts(self.drafter.of(session.sequence), self.pace) if self.drafter else None
            one = options.numbered(number)
            return answer(
                session,
                self.weights.vocab,
                rules,
                prepared,
                one,
                one.sampling(self.bundle.text.metadata),
                limit,
                thinking_open=prompt.thinking_open,
                thought_begun=prompt.thought_begun,
                form=form,
                drafts=drafts,
                load_s=0.0 if number else load_s,
                prepare_s=prepare_s,
            )

        def start(number: int) -> Start:
            submit = place.submit if place else self.scheduler.submit
            return partial(submit, prepared, partial(begin, number), options.numbered(number).wait)

        return Request(start, options.wait, on_progress, self.options.context.sequences)

    def hear(self, prompt: Prompt, dropped: int = 0) -> HearingPlace | None:
        """A place that listens: its sound comes where the prompt has its last clip. None where that is too late.

        `dropped`: turns that were left out of the prompt.
        """
        self.bundle.text.check_unchanged()
        prepared = self.spans(prompt.segments)
        at = max(index for index, span in enumerate(prepared) if span.each)
        before, after = prepared[:at], prepared[at + 1 :]
        begins, size = sum(map(len, before)), self.options.context.context
        most = min(TRAINED_FRAMES, size - size // ANSWER - sum(map(len, prepared)) + len(prepared[at]))
        if begins > LATEST_SOUND or most < LEAST_FRAMES:
            return None

        def sound(frames: NDArray[np.float32], after: bytes) -> Span:
            return heard(frames, self.weights.vocab, lambda: self.embedder, after)

        if sum(map(len, after)) > self.options.context.micro_batch:
            after = []  # sliding layers could not go back so far
        return HearingPlace(self.scheduler, before, after, sound, most, dropped)

    def evaluate(self, segments: Sequence[Segment]) -> Evaluation:
        """Ids and logits at every position of a prompt, in a cache of its own. Raises ContextError where it is full."""
        self.bundle.text.check_unchanged()
        prepared = self.spans(segments)
        total, held = sum(map(len, prepared)), self.options.context.context
        if total > held:
            raise ContextError(f"the prompt has {total:,} tokens and the context holds {held:,}; ask for a larger one")
        logits = np.empty((total, self.weights.vocab.size), np.float32)
        scorer = self._scoring()
        with scorer.alone():
            for position, row in enumerate(position_logits(scorer.context, prepared)):
                logits[position] = row
        return Evaluation(np.fromiter((i for span in prepared for i in span.ids), np.int32, total), logits)

    def _scoring(self) -> Session:
        """A cache of its own, which gives logits at every position."""
        with self._opening:
            if self._scorer is None:
                options = replace(self.options.context, sequences=1, outputs=self.options.context.rows)
                self._scorer = Session(Context(self.weights, options))
            return self._scorer
