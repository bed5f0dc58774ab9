"""How many tokens to draft: the choice that yields the most tokens per second here and now.

In: seconds of draft steps and of checks by size, guesses with the drafter's confidence, which of them were accepted.
Out: a draft length, none included. Pure arithmetic: no model, no clock.

The worth of a step that checks m guesses is its expected tokens minus what its time would yield at the best known
rate. Everything in that sum is measured while decoding, because nothing in it can be known before: a check of four
tokens costs 1.2 to 3 times one, by the type of the weights, and acceptance changes with the text.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Sequence

LONGEST = 8  # guesses that `auto` considers
RECENT = 5  # measurements of one size that are kept
SLOPE = 0.15  # what one more row costs, in checks of one row, until it is measured
HOPE = 0.6  # acceptance of a position before anything is known
WEIGHT = 2.0  # observations that a prior counts for
MEMORY = 0.98  # what an observation still weighs one observation later
FADING = 0.995  # the same, per step without drafts: what was true then may not be true now
FIRST, INCOME, SAVED = 0.5, 0.005, 3.0  # tokens that tests may lose: at first, more per token made, at most at once
STALE = 32  # steps after which a length may be tested again
BINS = (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95)  # confidences whose acceptance is counted apart


class Seconds:
    """The usual of the last few measurements: the lower median, which a busy moment does not move."""

    def __init__(self) -> None:
        self.seen: deque[float] = deque(maxlen=RECENT)
        self._median = 0.0

    def add(self, seconds: float) -> None:
        self.seen.append(seconds)
        self._median = sorted(self.seen)[(len(self.seen) - 1) // 2]

    def usual(self, expected: float) -> float:
        """`expected` counts as long as there are fewer than two: the first run of a size builds its graph."""
        if len(self.seen) < 2:
            return (sum(self.seen) + expected) / (len(self.seen) + 1)
        return self._median


class Share:
    """A rate of success that forgets."""

    def __init__(self) -> None:
        self.successes = self.tries = 0.0

    def add(self, success: float) -> None:
        self.successes = self.successes * MEMORY + success
        self.tries = self.tries * MEMORY + 1

    def fade(self) -> None:
        self.successes *= FADING
        self.tries *= FADING

    def mean(self, prior: float) -> float:
        return (self.successes + WEIGHT * prior) / (self.tries + WEIGHT)


class Pace:
    """Chooses draft lengths for one model, from answer to answer."""

    def __init__(self, fixed: int | None = None, *, ratio: float = 0.1) -> None:
        """`fixed`: always this length. `ratio`: a draft step in checks of one row, until it is measured."""
        self.fixed = fixed
        self._ratio = ratio
        self._checks = [Seconds() for _ in range((fixed or LONGEST) + 1)]  # [m]: of m guesses, so of m + 1 rows
        self._draft = Seconds()
        self._positions = [Share() for _ in range(fixed or LONGEST)]
        self._confidences = [Share() for _ in range(len(BINS) + 1)]
        self._last_checked = [0] * len(self._checks)  # step number
        self._step = 0
        self._allowance = FIRST
        self._testing: int | None = None
        self._refresh()

    # ── choosing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, most: int) -> int:
        """A step begins: the length to aim at, `most` or less."""
        self._testing = None
        if self.fixed is not None:
            return min(self.fixed, most)
        if len(self._checks[0].seen) < 2:
            return 0  # what all else is compared with
        best = self._best(most, [])
        test = self._test(best, most)
        if test is not None:
            self._testing = test
            return test
        return best

    def go_on(self, aim: int, confidences: Sequence[float], most: int) -> int:
        """The aim after one more guess: more than there are guesses means go on, less means check only so many."""
        if self.fixed is not None or self._testing is not None:
            return aim
        position = len(confidences) - 1
        if self._accept(position, confidences[position]) >= self._expected[position]:
            return max(aim, len(confidences))  # as good as was expected: the plan stands
        return self._best(most, confidences)

    def _best(self, most: int, confidences: Sequence[float]) -> int:
        made, reach = len(confidences), 1.0
        best, tokens = 0, 1.0
        worth = 1.0 - self._rate * self._check_s[0]
        for m in range(1, min(most, LONGEST) + 1):
            reach *= self._accept(m - 1, confidences[m - 1]) if m <= made else self._expected[m - 1]
            tokens += reach
            value = tokens - self._rate * (self._check_s[m] + max(0, m - made) * self._draft_s)
            if value > worth + 1e-9:
                best, worth = m, value
        return best

    def _test(self, best: int, most: int) -> int | None:
        """A length near the best that was not measured for long, if what that may lose is allowed."""
        near = [m for m in range(min(best + 3, most, LONGEST) + 1) if m != best]
        stale = [m for m in near if self._step - self._last_checked[m] >= STALE]
        if not stale:
            return None
        m = min(stale, key=lambda m: self._last_checked[m])
        loss = self._rate * self._cost(m) - self._tokens[m]
        if loss > self._allowance:
            return None
        self._allowance -= max(0.0, loss)
        return m

    # ── learning ─────────────────────────────────────────────────────────────────────────────────────────────────

    def drafted(self, seconds: float) -> None:
        """One draft step took so long."""
        self._draft.add(seconds)

    def checked(self, confidences: Sequence[float], checked: int, accepted: int, seconds: float) -> None:
        """A step ends: of the guesses, the first `checked` were checked and the first `accepted` of those accepted."""
        self._step += 1
        self._checks[checked].add(seconds)
        self._last_checked[checked] = self._step
        self._allowance = min(SAVED, self._allowance + INCOME * (accepted + 1))
        if not confidences:
            for share in (*self._positions, *self._confidences):
                share.fade()
        for i, confidence in enumerate(confidences[: accepted + 1]):
            if i < checked:
                self._confidences[bisect(BINS, confidence)].add(float(i < accepted))
                self._positions[i].add(float(i < accepted))
            else:  # never checked: what was thought of it is all that is known
                self._positions[i].add(self._accept(i, confidence))
        if self.fixed is None:
            self._refresh()

    def _refresh(self) -> None:
        """The sums that every choice of the next step needs."""
        one = self._checks[0].usual(1.0)
        self._check_s = check = [one]  # by length; what was not measured costs a little more than one guess less
        for seconds in self._checks[1:]:
            check.append(seconds.usual(check[-1] + SLOPE * one))
        self._draft_s = self._draft.usual(self._ratio * one)
        self._expected: list[float] = []  # acceptance by position
        self._tokens = [1.0]  # by length
        accept, reach = HOPE, 1.0
        for share in self._positions:
            accept = share.mean(accept)
            reach *= accept
            self._expected.append(accept)
            self._tokens.append(self._tokens[-1] + reach)
        self._rate = max(tokens / self._cost(m) for m, tokens in enumerate(self._tokens))

    # ── estimates ────────────────────────────────────────────────────────────────────────────────────────────────

    def _accept(self, position: int, confidence: float) -> float:
        """How likely a guess is accepted, by what happened to others of that confidence."""
        return self._confidences[bisect(BINS, confidence)].mean(confidence**0.5)

    def _cost(self, m: int) -> float:
        return self._check_s[m] + m * self._draft_s

    def costs_ms(self) -> dict[str, object]:
        """What was measured, in milliseconds: a draft step, and a check by its number of rows."""
        checks = {str(m + 1): s.usual(0) * 1e3 for m, s in enumerate(self._checks) if len(s.seen) > 1}
        return {"draft": self._draft.usual(0) * 1e3 if len(self._draft.seen) > 1 else None, "check": checks}
