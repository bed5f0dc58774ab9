"""Train the tiny Gemma 4 from scratch: on a GPU in minutes, on a CPU in hours.

    python -m training.train WORK --minutes 5              # the target, by the clock; goes on where it stopped
    python -m training.train WORK --minutes 1 --drafter    # then its drafter
    python -m training.train WORK --steps 1500             # or by steps
    python -m training.train WORK --start models --videos 3 --lr-muon 0.0015 --lr-adam 0.0002   # on from an export
    python -m training.train WORK --export models          # the weights, and held-out samples of the material

Needs torch, scikit-learn, pillow and jinja2; once, to render and write the spoken clips, espeak-ng, soundfile and soxr.
"""

from __future__ import annotations

import argparse
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from . import config, drafter, export, mixture, network, scoring, texts, tokenizer
from .optimizer import Optimizer
from .tasks import TASKS

Loss = Callable[[Any, network.Tensors], torch.Tensor]  # a model and a batch -> a tensor
MUON = ("qkv", ".o", "gate_up", "down", "projection", "pre", "post")


def make_tokenizer(material: texts.Material, path: Path, seed: int) -> None:
    """The vocabulary comes from the training text itself."""
    rng = np.random.default_rng(seed)
    marks = re.compile("|".join(re.escape(mark) for mark in config.SPECIAL.values()))
    lines: list[str] = []
    makers: tuple[tuple[texts.Make, int], ...] = (
        (texts.row, 200),
        (texts.see, 300),
        (texts.hear, 200),
        (texts.total, 300),
        (texts.use_tool, 3000),
        (texts.talk, 6000),
        (texts.plain, 1000),
    )
    for make, count in makers:
        for _ in range(count):
            e = make(rng, material)
            lines += [part for part in marks.split(e.prompt + e.reply) if part]
    tokenizer.build(lines).save(str(path))


def scale_at(progress: float, step: int, warm: int = 60, hold: float = 0.45) -> float:
    """Warm up, hold, then fall in a straight line to nearly nothing."""
    return min(1.0, (step + 1) / warm) * min(1.0, max(0.005, (1 - progress) / (1 - hold)))


class Run:
    """Steps of training with a clock, a log, figures of held-out material, and a file to go on from."""

    def __init__(
        self,
        a: argparse.Namespace,
        model: nn.Module,
        loss: Loss,
        artists: mixture.Artists,
        show: Callable[[], dict[str, tuple[int, int]]],
        file: Path,
    ) -> None:
        self.a, self.model, self.loss, self.artists, self.show, self.file = a, model, loss, artists, show, file
        self.optimizer = Optimizer(model, MUON, a.lr_muon, a.lr_adam, a.decay)
        self.spent, self.step = 0.0, 0
        if file.exists():
            saved = torch.load(file, map_location=a.device)
            model.load_state_dict(saved["model"])
            self.optimizer.load(saved["optimizer"])
            self.spent, self.step = saved["spent"], saved["step"]
            print(f"on from {file}", flush=True)
        print(
            f"{sum(p.numel() for p in model.parameters()):,} parameters, step {self.step}, {self.spent / 60:.1f} min",
            flush=True,
        )

    def go(self) -> None:
        a, mean = self.a, None
        begun = time.monotonic() - self.spent
        started = shown = saved = time.monotonic()
        first = self.step
        tensors = [network.Tensors(batch) for batch in self.artists.next()]
        while True:
            self.spent = time.monotonic() - begun
            progress = self.step / a.steps if a.steps else self.spent / max(a.minutes * 60, 1e-9)
            if progress >= 1:
                break
            total = torch.zeros(())
            for batch in tensors:
                loss = self.loss(self.model, batch)
                loss.backward()
                total += loss.detach()
            drawn = self.artists.next()  # while the GPU is still at work
            value = total.item()
            if np.isfinite(value):
                mean = value if mean is None else 0.95 * mean + 0.05 * value
                self.optimizer.step(scale_at(progress, self.step))
            else:
                print(f"step {self.step}: not a finite loss, left out", flush=True)
                self.model.zero_grad(set_to_none=True)
            tensors = [network.Tensors(batch) for batch in drawn]
            if self.step % 20 == 0:
                pace = (self.step - first) / (time.monotonic() - started)
                print(f"step {self.step} {self.spent / 60:.2f} min, {pace:.2f} a second, loss {mean}", flush=True)
            self.step += 1
            if time.monotonic() - shown > a.show * 60:
                shown = time.monotonic()
                own = {n: p.detach().clone() for n, p in self.model.named_parameters()}
                put(self.model, self.optimizer.average)
                print("HELD", scoring.table(self.show()), flush=True)
                put(self.model, own)
            if time.monotonic() - saved > 60:
                saved = time.monotonic()
                self.save()
        if self.step > first:
            self.save()
        put(self.model, self.optimizer.average)
        print("FINAL", scoring.table(self.show()), flush=True)

    def save(self) -> None:
        part = self.file.with_suffix(".part")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state(),
                "spent": self.spent,
                "step": self.step,
            },
            part,
        )
        part.replace(self.file)


@torch.no_grad()
def put(model: nn.Module, values: dict[str, torch.Tensor]) -> None:
    for name, p in model.named_parameters():
        p.copy_(values[name])


def trained(model: nn.Module, file: Path) -> Any:
    """The running mean of the weights, rounded to what the checkpoint can hold."""
    saved = torch.load(file, map_location=torch.get_default_device())
    model.load_state_dict(saved["model"])
    put(model, {n: v.to(torch.bfloat16).float() for n, v in saved["optimizer"]["average"].items()})
    return model.requires_grad_(False)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work", type=Path, help="folder for the cache, the state and the log")
    p.add_argument("--drafter", action="store_true", help="train the drafter of a finished target")
    p.add_argument("--export", type=Path, metavar="DIR", help="write DIR/tiny and DIR/tiny-assistant")
    p.add_argument("--samples", action="store_true", help="with --export: also the samples of the demo and the tests")
    p.add_argument("--minutes", type=float, default=65, help="length of the run, by the clock; 0: only its figures")
    p.add_argument("--steps", type=int, help="length of the run in steps, instead")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--device", default="cuda", help="cuda or cpu")
    p.add_argument("--processes", type=int, default=14, help="processes that draw the examples")
    p.add_argument("--share", type=float, default=1.0, help="of a step's examples; less for a try")
    p.add_argument("--videos", type=float, default=1.0, help="times as many examples with videos")
    p.add_argument("--start", type=Path, metavar="DIR", help="folder of an export, whose weights a new run begins with")
    p.add_argument("--show", type=float, default=1, help="minutes between figures of held-out material")
    p.add_argument("--held", type=int, default=96, help="held-out examples a task")
    names = ", ".join(TASKS)
    p.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS], metavar="TASK", help=f"to count: {names}")
    p.add_argument("--lr-muon", type=float, default=0.02)
    p.add_argument("--lr-adam", type=float, default=0.003)
    p.add_argument("--decay", type=float, default=0.1)
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    target_file, drafter_file, path = a.work / "target.pt", a.work / "drafter.pt", a.work / "tokenizer.json"
    if a.export:
        target = trained(network.Target(), target_file)
        export.write(a.export / "tiny", export.target_tensors(target), config.target_config(), path, True)
        if drafter_file.exists():
            draft = trained(drafter.Drafter(target), drafter_file)
            export.write(
                a.export / "tiny-assistant", export.drafter_tensors(draft), config.drafter_config(), path, False
            )
        if a.samples:
            from . import samples  # writes sound

            held = texts.Material.load(a.work, True)
            samples.write_demo(a.export / "demo", held)
            samples.write_tests(Path(__file__).parents[1] / "tests" / "data", held)
        return
    material, held = (texts.Material.load(a.work, h) for h in (False, True))
    if a.start:
        shutil.copyfile(a.start / "tiny" / "tokenizer.json", path)
    elif not path.exists():
        make_tokenizer(material, path, a.seed)
    tok = Tokenizer.from_file(str(path))
    file = drafter_file if a.drafter else target_file
    done = torch.load(file, map_location="cpu")["step"] if file.exists() else 0
    first = done + (1_000_000 if a.drafter else 0)  # the drafter has examples of its own
    amount = mixture.Amount(a.share, a.videos, 8000 if a.device == "cuda" else 300)
    artists = mixture.Artists(material, tok, a.seed, first, a.processes, amount)  # forks, before the GPU is touched
    known = scoring.held_out(held, tok, a.held, a.tasks)
    if a.device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # it wants other masks
    torch.set_default_device(a.device)
    torch.manual_seed(a.seed)
    target = network.Target()
    if a.start:
        export.read(a.start / "tiny", export.target_tensors(target))
    if a.drafter:
        model = drafter.Drafter(trained(target, target_file))
        if a.start:
            export.read(a.start / "tiny-assistant", export.drafter_tensors(model))
        run = Run(a, model, drafter.drafter_loss, artists, lambda: drafter.accepted(model, known), file)
    else:
        run = Run(a, target, network.target_loss, artists, lambda: scoring.score(target, known), file)
    run.go()


if __name__ == "__main__":
    main()
