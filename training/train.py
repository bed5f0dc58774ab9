"""Train the tiny Gemma 4 from scratch on two CPU cores.

    python -m training.train WORK --steps 1335             # the target; goes on where it stopped
    python -m training.train WORK --drafter --steps 244    # then its drafter
    python -m training.train WORK --minutes 30             # or by the clock
    python -m training.train WORK --export models          # the weights, and held-out samples of the material

Needs torch, transformers, scikit-learn, soundfile, soxr, pillow and jinja2, espeak-ng, and gcc for twice the speed.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from . import config, drafter, export, mixture, network, samples, scoring, texts, tokenizer
from .optimizer import Optimizer

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
        loss: mixture.Loss,
        show: Callable[[int], str],
        file: Path,
        first: int = 0,
    ) -> None:
        self.a, self.model, self.loss, self.show, self.file, self.first = a, model, loss, show, file, first
        self.optimizer = Optimizer(model, MUON, a.lr_muon, a.lr_adam, a.decay)
        self.spent, self.step = 0.0, 0
        if file.exists():
            saved = torch.load(file)
            model.load_state_dict(saved["model"])
            self.optimizer.load(saved["optimizer"])
            self.spent, self.step = saved["spent"], saved["step"]
        print(
            f"{sum(p.numel() for p in model.parameters()):,} parameters, step {self.step}, {self.spent / 60:.1f} min",
            flush=True,
        )

    def go(self, material: texts.Material, tok: Tokenizer) -> None:
        a, losses = self.a, None
        team = mixture.Team(self.model, self.loss, material, tok, a.seed, a.processes)
        begun = time.monotonic() - self.spent
        shown = saved = time.monotonic()
        while True:
            self.spent = time.monotonic() - begun
            progress = self.step / a.steps if a.steps else self.spent / (a.minutes * 60)
            if progress >= 1:
                break
            loss = np.array(team.run(self.first + self.step))
            if np.isfinite(loss).all():
                losses = loss if losses is None else 0.95 * losses + 0.05 * loss
                self.optimizer.step(scale_at(progress, self.step))
            else:
                print(f"step {self.step}: not a finite loss, left out {loss}", flush=True)
            if self.step % 20 == 0:
                print(
                    f"step {self.step} {self.spent / 60:.1f} min "
                    + " ".join(f"{v:.3f}" for v in (loss if losses is None else losses)),
                    flush=True,
                )
            self.step += 1
            if time.monotonic() - shown > a.show * 60:
                shown = time.monotonic()
                own = {n: p.detach().clone() for n, p in self.model.named_parameters()}
                put(self.model, self.optimizer.average)
                print("HELD", self.show(64), flush=True)
                put(self.model, own)
            if time.monotonic() - saved > 120:
                saved = time.monotonic()
                self.save()
        team.close()
        self.save()
        put(self.model, self.optimizer.average)
        print("FINAL", self.show(256), flush=True)

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
    saved = torch.load(file)
    model.load_state_dict(saved["model"])
    put(model, {n: v.to(torch.bfloat16).float() for n, v in saved["optimizer"]["average"].items()})
    return model.requires_grad_(False)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work", type=Path, help="folder for the cache, the state and the log")
    p.add_argument("--drafter", action="store_true", help="train the drafter of a finished target")
    p.add_argument("--export", type=Path, metavar="DIR", help="write DIR/tiny and DIR/tiny-assistant")
    p.add_argument("--minutes", type=float, default=65, help="length of the run, by the clock")
    p.add_argument("--steps", type=int, help="length of the run in steps, instead")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--processes", type=int, default=2)
    p.add_argument("--show", type=float, default=3, help="minutes between figures of held-out material")
    p.add_argument("--lr-muon", type=float, default=0.02)
    p.add_argument("--lr-adam", type=float, default=0.003)
    p.add_argument("--decay", type=float, default=0.1)
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(a.seed)
    torch.set_num_threads(1)
    target_file, drafter_file, path = a.work / "target.pt", a.work / "drafter.pt", a.work / "tokenizer.json"
    if a.export:
        target = trained(network.Target(), target_file)
        export.write(a.export / "tiny", export.target_tensors(target), config.target_config(), path, True)
        if drafter_file.exists():
            draft = trained(drafter.Drafter(target), drafter_file)
            export.write(
                a.export / "tiny-assistant", export.drafter_tensors(draft), config.drafter_config(), path, False
            )
        held = texts.Material.load(a.work, True)
        samples.write_demo(a.export / "demo", held)
        samples.write_tests(Path(__file__).parents[1] / "tests" / "data", held)
        return
    material, held = (texts.Material.load(a.work, h) for h in (False, True))
    if not path.exists():
        make_tokenizer(material, path, a.seed)
    tok = Tokenizer.from_file(str(path))
    if a.drafter:
        model = drafter.Drafter(trained(network.Target(), target_file))

        def show(count: int) -> str:
            return scoring.table(drafter.accepted(model, scoring.held_out(held, tok, count)))

        Run(a, model, drafter.drafter_loss, show, drafter_file, first=10_000).go(material, tok)  # examples of its own
    else:
        model = network.Target()

        def show(count: int) -> str:
            return scoring.table(scoring.score(model, scoring.held_out(held, tok, count)))

        Run(a, model, network.target_loss, show, target_file).go(material, tok)


if __name__ == "__main__":
    main()
