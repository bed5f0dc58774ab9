"""What is asked about clips, as `texts` has the rest: when a colour comes, when it changes, what is said in it.

In: a random generator and a `Material`. Out: `Example`s.
"""

from __future__ import annotations

import numpy as np

from . import speech, videos
from .phrases import WATCH, WATCH_HEAR, WATCH_ORDER, WATCH_WHEN
from .texts import Example, Material, Message, example, pick


def watch(rng: np.random.Generator, m: Material, long: bool = False, known: bool = False) -> Example:
    """Which colour comes first, second or third, when it changes, or what happens.

    `known`: of held-out material, clips whose pairs of colours are trained on. In training, colours that are not asked
    for may have any hue: so a change is one between any two colours, and a name does not hang on the one beside it.
    Where the question is when, most clips are slow there: so a stamp is copied, and not guessed from a few usual ones.
    """
    kind = "watch" + "_long" * long + "_known" * known
    video: list[Message] = [{"type": "video"}]
    held = m.held and not known
    form = rng.random()
    # when is the harder one to learn, and hardest among many frames
    order_share, when_share = (0.55, 0.3) if m.held else (0.2, 0.7) if long else (0.4, 0.45)
    if form < order_share:
        turns = int(rng.integers(1, 3))
        n = int(rng.integers(turns + 1)) if rng.random() < 0.5 else 1
        clip = videos.clip(rng, held, turns, long, named=range(3) if m.held else [n])
        order = ["first", "second", "third"][n]
        text, answer = pick(rng, WATCH_ORDER).format(order), f"{clip.colours[n].capitalize()} comes {order}."
    elif form < order_share + when_share:
        slow = not m.held and rng.random() < 0.6
        clip = videos.clip(rng, held, 1, long, named=range(3) if m.held else [], slow=slow)
        kind += "_when"
        text, answer = pick(rng, WATCH_WHEN), f"The colour changes at {clip.turn_stamp()}."
    else:
        clip = videos.clip(rng, held, 1, long)
        text = pick(rng, WATCH)
        answer = f"The {clip.kind or 'picture'} turns from {clip.colours[0]} to {clip.colours[1]}."
    return example(kind, [*video, {"type": "text", "text": text}], answer, clips=[clip])


def watch_hear(rng: np.random.Generator, m: Material) -> Example:
    """A clip with its sound before it, as a video that is heard, too."""
    clip = videos.clip(rng, m.held, 1)
    word, samples = pick(rng, m.clips)
    text, answer = (
        pick(rng, WATCH_HEAR),
        f"I hear the {'digit' if word in speech.DIGITS else 'word'} {speech.SAID[word]}.",
    )
    if rng.random() < 0.3:
        text, answer = pick(rng, WATCH_ORDER).format("second"), f"{clip.colours[1].capitalize()} comes second."
    content: list[Message] = [{"type": "audio"}, {"type": "video"}, {"type": "text", "text": text}]
    sound = speech.vary(samples, rng, gently=m.held)
    return example("watch_hear", content, answer, sounds=[sound], clips=[clip])
