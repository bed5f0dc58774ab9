"""The reference: transformers on a checkpoint, in float32, with the masks that `generate()` makes for a static cache.

Comes in: a checkpoint folder, prompts with `<|image|>` and `<|audio|>`, patches and frames. Goes out: token ids, soft
tokens, logits, greedy answers and drafts, as numpy arrays. Needs torch and transformers (the `reference` extra).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoTokenizer, Gemma4UnifiedAssistantForCausalLM, Gemma4UnifiedForConditionalGeneration
from transformers.generation.candidate_generator import SinglePositionMultiTokenCandidateGenerator
from transformers.utils import logging

FloatArray = npt.NDArray[np.float32]
Picture = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]  # pixels [N, 6912] from 0 to 1, positions [N, 2] (x, y)
WRAPS = {"<|image|>": ("<|image>", "<image|>"), "<|audio|>": ("<|audio>", "<audio|>")}


@dataclass(frozen=True)
class Inputs:
    """What the model takes for one prompt: everything torch, batch of one."""

    input_ids: torch.Tensor
    media: dict[str, torch.Tensor]


class Reference:
    """A checkpoint as transformers runs it."""

    def __init__(self, folder: Path) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.model: Any = Gemma4UnifiedForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of text as it stands; no `<bos>` is added."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def inputs(
        self,
        prompt: str,
        images: Sequence[Picture] = (),
        audio: Sequence[FloatArray] = (),
        videos: Sequence[tuple[str, Sequence[Picture]]] = (),
    ) -> Inputs:
        """A raw prompt, `<bos>` put before it, with each placeholder expanded as Gemma4UnifiedProcessor does.

        A video: what its placeholder becomes, and its frames.
        """
        counts = {"<|image|>": [len(pixels) for pixels, _ in images], "<|audio|>": [len(frames) for frames in audio]}
        text = "<bos>" + prompt
        for token, (begin, end) in WRAPS.items():
            pieces = text.split(token)
            assert len(pieces) == len(counts[token]) + 1, f"{len(pieces) - 1} times {token} in the prompt"
            expanded = [begin + token * n + end + rest for n, rest in zip(counts[token], pieces[1:], strict=True)]
            text = pieces[0] + "".join(expanded)
        for expansion, _ in videos:
            text = text.replace("<|video|>", expansion.replace("<|video|>", "\0"), 1)
        text = text.replace("\0", "<|video|>")
        ids = torch.tensor([self.tokenize(text)])
        media: dict[str, torch.Tensor] = {"mm_token_type_ids": self._types(ids)}
        if images:
            most = max(len(pixels) for pixels, _ in images)
            media["pixel_values"] = torch.stack([_padded(pixels, most, 0.0) for pixels, _ in images])
            media["image_position_ids"] = torch.stack([_padded(where, most, -1) for _, where in images])
        if audio:
            most = max(map(len, audio))
            media["input_features"] = torch.stack([_padded(frames, most, 0.0) for frames in audio])
            media["input_features_mask"] = torch.tensor([[i < len(f) for i in range(most)] for f in audio])
        frames = [frame for _, shown in videos for frame in shown]
        if frames:
            most = max(len(pixels) for pixels, _ in frames)
            media["pixel_values_videos"] = torch.stack([_padded(pixels, most, 0.0) for pixels, _ in frames])
            media["video_position_ids"] = torch.stack([_padded(where, most, -1) for _, where in frames])
            media["num_frames_per_video"] = torch.tensor([len(shown) for _, shown in videos])
        return Inputs(ids, media)

    def _types(self, ids: torch.Tensor) -> torch.Tensor:
        config = self.model.config
        kinds = {config.image_token_id: 1, config.video_token_id: 2, config.audio_token_id: 3}
        return torch.tensor([[kinds.get(i, 0) for i in row] for row in ids.tolist()])

    @torch.no_grad()
    def forward(self, inputs: Inputs, **options: Any) -> Any:
        """One pass over the whole prompt with the masks that the model class makes for `generate()`.

        5.24 uses them only when the cache is static. A plain call, and `generate()` with its default cache, fall back
        on a generic helper that lets an image see itself both ways on full layers too, which the class itself rules
        out in `create_masks_for_vision_model`, and beyond the window on sliding layers.
        """
        length = inputs.input_ids.shape[1]
        masks = self.model.create_masks_for_generate(
            self.model.config,
            inputs_embeds=torch.zeros(1, length, self.model.config.text_config.hidden_size),
            attention_mask=torch.ones(1, length, dtype=torch.long),
            cache=None,
            position_ids=torch.arange(length)[None],
            mm_token_type_ids=inputs.media["mm_token_type_ids"],
        )
        return self.model(input_ids=inputs.input_ids, attention_mask=masks, use_cache=False, **inputs.media, **options)

    def logits(self, inputs: Inputs) -> FloatArray:
        """float32 [N, vocabulary], softcapped."""
        return np.asarray(self.forward(inputs).logits[0], np.float32)

    @torch.no_grad()
    def generate(self, inputs: Inputs, max_new_tokens: int) -> tuple[list[int], FloatArray]:
        """The greedy answer's ids (with the end token, if it came) and the logits of each step before suppression."""
        out = self.model.generate(
            inputs.input_ids,
            **inputs.media,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            cache_implementation="static",  # with the default cache, 5.24 masks like a plain call, see `forward`
            disable_compile=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids = out.sequences[0, inputs.input_ids.shape[1] :].tolist()
        return ids, np.asarray(torch.cat(out.logits), np.float32)

    @torch.no_grad()
    def image_soft_tokens(self, picture: Picture) -> FloatArray:
        """float32 [N, hidden]."""
        pixels, positions = (torch.from_numpy(a)[None] for a in picture)
        return np.asarray(self.model.model.get_image_features(pixels, positions.long()).pooler_output[0], np.float32)

    @torch.no_grad()
    def audio_soft_tokens(self, frames: FloatArray) -> FloatArray:
        """float32 [N, hidden]."""
        mask = torch.ones(1, len(frames), dtype=torch.bool)
        out = self.model.model.get_audio_features(torch.from_numpy(frames)[None], mask)
        return np.asarray(out.pooler_output[0], np.float32)


class ReferenceDrafter:
    """The drafter as transformers runs it beside its target."""

    def __init__(self, target: Reference, folder: Path) -> None:
        self.target = target
        self.model: Any = Gemma4UnifiedAssistantForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def draft(self, inputs: Inputs, steps: int, window_rows: int | None = None) -> tuple[int, FloatArray]:
        """The target's greedy next token, and the drafter's logits [steps, vocabulary] for what follows it.

        window_rows: how many of the last cached rows the sliding layers see; None is transformers' own overlay, which
        takes window + 1 rows, where llama.cpp takes window - 1 (the draft itself counts).
        """
        out = self.target.forward(inputs, output_hidden_states=True, return_shared_kv_states=True)
        token = int(out.logits[0, -1].argmax())
        if window_rows is not None:
            keys, values = out.shared_kv_states["sliding_attention"]
            out.shared_kv_states["sliding_attention"] = keys[:, :, -window_rows:], values[:, :, -window_rows:]
        self.model.generation_config.num_assistant_tokens = steps
        config = self.target.model.generation_config
        config.max_length = 1 << 20
        generator = SinglePositionMultiTokenCandidateGenerator(
            self.model, self.target.model.get_input_embeddings(), config
        )
        ids = torch.cat([inputs.input_ids, torch.tensor([[token]])], dim=1)
        _, logits = generator.get_candidates(ids, {}, out, is_first_iteration=False, n_last_matches=0)
        return token, np.asarray(logits[0], np.float32)


def _padded(rows: npt.NDArray[Any], count: int, fill: float) -> torch.Tensor:
    padding = np.full((count - len(rows), *rows.shape[1:]), fill, rows.dtype)
    tensor = torch.from_numpy(np.concatenate([rows, padding]))
    return tensor if tensor.is_floating_point() else tensor.long()
