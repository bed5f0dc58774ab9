"""The MTP drafter: it guesses ahead from the target's last state, on the target's keys and values.

Source: transformers 5.24 Gemma4UnifiedAssistantForCausalLM and SinglePositionMultiTokenCandidateGenerator.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import Floats, attend, rms_norm
from .model import Cached, Layer, Model, capped
from .weights import Weights


class Drafter:
    """Reads the cache of its target's last sliding and last full layer, one position after another's."""

    def __init__(self, weights: Weights, target: Model) -> None:
        self.weights, self.target = weights, target
        self.layers = [Layer(weights, i) for i in range(len(weights.numbers.sliding))]

    def draft(self, token: int, state: Floats, sliding: Cached, full: Cached, steps: int, reach: int) -> Floats:
        """Logits float32 [steps, vocabulary] of what follows `token`, each step's likeliest token taken as true.

        `state`: the target's final state [hidden] at the position before `token`. The caches hold all positions before
        `token`; sliding layers see the last `reach` of them. The position stays `token`'s in every step.
        """
        position = np.array([len(full.keys)])
        logits = []
        for _ in range(steps):
            embedded = self.target.rows(np.array([token]))[0] * np.float32(np.sqrt(self.target.hidden))
            h = np.concatenate([embedded, state])[None] @ self.weights.whole("pre_projection.weight").T
            for layer in self.layers:
                cached, first = (sliding, max(0, len(full.keys) - reach)) if layer.sliding else (full, 0)
                keys, values = cached.keys[first:], cached.values[first:]
                q = layer.queries(layer.norm(h, "input_layernorm"), position)
                h = layer.after(h, attend(q, keys, values, np.ones((1, len(keys)), bool)))
            final = rms_norm(h, self.weights.numbers.epsilon, self.weights.whole("norm.weight"))
            logits.append(capped(self.weights, final)[0])
            token, state = int(logits[-1].argmax()), (final @ self.weights.whole("post_projection.weight").T)[0]
        return np.stack(logits)
