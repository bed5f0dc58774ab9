"""Counters of a server, and their form as Prometheus reads it."""

from __future__ import annotations

from collections import Counter

from ..records import Result

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HELP = {
    "gemma4gguf_requests_total": ("counter", "Requests by path and status."),
    "gemma4gguf_requests_live": ("gauge", "Requests that are answered or wait."),
    "gemma4gguf_model_loaded": ("gauge", "1 while the model is in memory."),
    "gemma4gguf_answers_total": ("counter", "Answers that were given to their end."),
    "gemma4gguf_prompt_tokens_total": ("counter", "Positions of prompts."),
    "gemma4gguf_reused_tokens_total": ("counter", "Positions of prompts that were found in the cache."),
    "gemma4gguf_completion_tokens_total": ("counter", "Tokens of answers."),
    "gemma4gguf_drafted_tokens_total": ("counter", "Tokens that the drafter proposed."),
    "gemma4gguf_accepted_tokens_total": ("counter", "Proposed tokens that were accepted."),
    "gemma4gguf_first_token_seconds_total": ("counter", "Seconds to the first token, summed over the answers."),
    "gemma4gguf_decode_seconds_total": ("counter", "Seconds of decoding, summed over the answers."),
}


class Metrics:
    """What was served so far."""

    def __init__(self) -> None:
        self._counted: Counter[str] = Counter()
        self._requests: Counter[tuple[str, int]] = Counter()

    def requested(self, path: str, status: int) -> None:
        self._requests[path, status] += 1

    def answered(self, result: Result) -> None:
        n, t, d = result.tokens, result.timings, result.draft
        self._counted["gemma4gguf_answers_total"] += 1
        for name, value in (
            ("prompt_tokens", n.prompt),
            ("reused_tokens", n.reused),
            ("completion_tokens", n.completion),
            ("drafted_tokens", d.proposed),
            ("accepted_tokens", d.accepted),
            ("first_token_seconds", t.time_to_first_token_s),
            ("decode_seconds", t.decode_s),
        ):
            self._counted[f"gemma4gguf_{name}_total"] += value  # type: ignore[assignment]  # Counter holds floats too

    def text(self, *, live: int, loaded: bool) -> str:
        """Every counter, in Prometheus' text format."""
        values = {**self._counted, "gemma4gguf_requests_live": live, "gemma4gguf_model_loaded": int(loaded)}
        lines = []
        for name, (kind, meaning) in HELP.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            if name == "gemma4gguf_requests_total":
                rows = sorted(self._requests.items())
                lines += [f'{name}{{path="{path}",status="{status}"}} {n}' for (path, status), n in rows]
            else:
                lines.append(f"{name} {values.get(name, 0)}")
        return "\n".join(lines) + "\n"
