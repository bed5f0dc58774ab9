"""Choose how many tokens to draft, so that decoding yields the most tokens per second.

Measurements come in: the seconds of draft steps and of checks by size, the drafter's confidence in each guess, and
which guesses were accepted. A draft length goes out; 0 means no draft. This is arithmetic, without a model or a clock.

The value of a step that checks m guesses is its expected number of tokens, minus the number that its time would yield
at the best known rate. All of this is measured while decoding, because it cannot be known before: a check of four
tokens costs 1.2 to 3 times a check of one, depending on the type of the weights, and acceptance changes with the text.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Sequence

LONGEST = 8  # guesses per step at most, if the length is not fixed
RECENT = 5  # measurements kept per size
SLOPE = 0.15  # assumed cost of one more row until it is measured, relative to a check of one row
HOPE = 0.6  # prior acceptance of a position
WEIGHT = 2.0  # weight of a prior, in observations
MEMORY = 0.985  # decay of all observations per step with drafts
FADING = 0.997  # the same, per step without, because they may no longer hold
FIRST, INCOME, SAVED = 1.0, 0.0007, 3.0  # what tests of one length may lose, in tokens: at first, per token, at most
LEAST = 0.05  # tokens that a test costs at least, or lengths nearly as good as the best would be tested all the time
BINS = (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95)  # edges of the confidence bins; acceptance is counted per bin


class Seconds:
    """The lower median of the last RECENT measurements. One slow measurement does not change it."""

    def __init__(self) -> None:
        self.seen: deque[float] = deque(maxlen=RECENT)
        self._median = 0.0

    def add(self, seconds: float) -> None:
        self.seen.append(seconds)
        self._median = sorted(self.seen)[(len(self.seen) - 1) // 2]

    def usual(self, expected: float) -> float:
        """The median. Below two measurements, `expected` counts too: the first run of a size builds its graph."""
        if len(self.seen) < 2:
            return (sum(self.seen) + expected) / (len(self.seen) + 1)
        return self._median


class Share:
    """A success rate whose observations fade."""

    def __init__(self) -> None:
        self.successes = self.tries = 0.0

    def add(self, success: float) -> None:
        self.successes += success
        self.tries += 1

    def fade(self, by: float) -> None:
        self.successes *= by
        self.tries *= by

    def mean(self, prior: float) -> float:
        return (self.successes + WEIGHT * prior) / (self.tries + WEIGHT)


class Pace:
    """Chooses draft lengths for one model. What it measured is kept from answer to answer."""

    def __init__(self, fixed: int | None = None, *, ratio: float = 0.1) -> None:
        """`fixed`: always this length. `ratio`: assumed cost of a draft step, relative to a check of one row."""
        self.fixed = fixed
        self._ratio = ratio
        self._checks = [Seconds() for _ in range((fixed or LONGEST) + 1)]  # [m]: of m guesses, so of m + 1 rows
        self._draft = Seconds()
        self._positions = [Share() for _ in range(fixed or LONGEST)]
        self._confidences = [Share() for _ in range(len(BINS) + 1)]
        self._credit = [FIRST] * len(self._checks)
        self._testing: int | None = None
        self._refresh()

    # ── choosing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, most: int) -> int:
        """Begin a step. Returns the number of guesses to aim at, at most `most`."""
        self._testing = None
        if self.fixed is not None:
            return min(self.fixed, most)
        if len(self._checks[0].seen) < 2:
            return 0  # plain steps come first: all lengths are compared with them
        best = self._best(most, [])
        test = self._test(best, most)
        if test is not None:
            self._testing = test
            return test
        return best

    def go_on(self, aim: int, confidences: Sequence[float], most: int) -> int:
        """The aim after one more guess. If more than the guesses made, draft on; if fewer, check only that many."""
        if self.fixed is not None or self._testing is not None:
            return aim
        position = len(confidences) - 1
        if self._accept(confidences[position]) >= self._expected[position]:
            return max(aim, len(confidences))  # as good as expected: keep the aim
        return self._best(most, confidences)

    def _best(self, most: int, confidences: Sequence[float]) -> int:
        """The length of the highest value, given the confidences of the guesses made so far."""
        made, reach = len(confidences), 1.0
        best, tokens = 0, 1.0
        worth = 1.0 - self._rate * self._check_s[0]
        for m in range(1, min(most, LONGEST) + 1):
            reach *= self._accept(confidences[m - 1]) if m <= made else self._expected[m - 1]
            tokens += reach
            value = tokens - self._rate * (self._check_s[m] + max(0, m - made) * self._draft_s)
            if value > worth + 1e-9:
                best, worth = m, value
        return best

    def _test(self, best: int, most: int) -> int | None:
        """Another length whose credit covers its price, the tokens that it is expected to lose: the cheapest. Pays."""
        price = [max(LEAST, self._rate * self._cost(m) - tokens) for m, tokens in enumerate(self._tokens)]
        due = [m for m in range(min(most, LONGEST) + 1) if m != best and self._credit[m] >= price[m]]
        if not due:
            return None
        test = min(due, key=lambda m: price[m])
        self._credit[test] -= price[test]
        return test

    # ── learning ─────────────────────────────────────────────────────────────────────────────────────────────────

    def drafted(self, seconds: float) -> None:
        """Record the time of one draft step."""
        self._draft.add(seconds)

    def checked(self, confidences: Sequence[float], checked: int, accepted: int, seconds: float) -> None:
        """End a step: the first `checked` guesses were checked in `seconds`, and the first `accepted` were accepted."""
        self._checks[checked].add(seconds)
        self._credit = [min(SAVED, credit + INCOME * (accepted + 1)) for credit in self._credit]
        for share in (*self._positions, *self._confidences):
            share.fade(MEMORY if confidences else FADING)
        for i, confidence in enumerate(confidences[: accepted + 1]):
            if i < checked:
                self._confidences[bisect(BINS, confidence)].add(float(i < accepted))
                self._positions[i].add(float(i < accepted))
            else:  # not checked: the estimate stands in for an observation
                self._positions[i].add(self._accept(confidence))
        if self.fixed is None:
            self._refresh()

    def _refresh(self) -> None:
        """Compute what the choices of the next step need."""
        one = self._checks[0].usual(1.0)
        self._check_s = check = [one]  # by length; an unmeasured one is estimated from the next shorter one
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

    def _accept(self, confidence: float) -> float:
        """The probability that a guess is accepted, from earlier guesses of similar confidence."""
        return self._confidences[bisect(BINS, confidence)].mean(confidence**0.5)

    def _cost(self, m: int) -> float:
        return self._check_s[m] + m * self._draft_s

    def draft_ms(self) -> float | None:
        """A draft step in milliseconds, as measured; None before it was measured twice."""
        return self._draft.usual(0) * 1e3 if len(self._draft.seen) > 1 else None

    def check_ms(self) -> dict[str, float]:
        """Checks in milliseconds by their number of rows, those that were measured twice."""
        return {str(m + 1): s.usual(0) * 1e3 for m, s in enumerate(self._checks) if len(s.seen) > 1}
