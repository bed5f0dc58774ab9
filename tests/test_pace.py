"""The pace that decides how much to draft, on simulated machines."""

from __future__ import annotations

import random

import pytest

from gemma4gguf.runtime.pace import Pace
from tests.support.pacing import COSTS, FLAT, STEEP, Costs, Machine, machine

SETTLED = 2000  # tokens, some answers, after which a pace has learnt a machine and a kind of text
NOISE = 0.05  # of a clock


@pytest.mark.parametrize("checks", [FLAT, STEEP], ids=["flat", "steep"])
@pytest.mark.parametrize("draft", [0.07, 0.5])
def test_a_useless_drafter_costs_next_to_nothing(checks: dict[int, float], draft: float) -> None:
    for seed in range(5):
        machine, pace = Machine(checks, draft, right=0.0, seed=seed), Pace(ratio=draft)
        assert machine.run(pace, 256) > 0.965
        assert machine.run(pace, 1000) > 0.98


@pytest.mark.parametrize("right", [0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("checks", [FLAT, STEEP], ids=["flat", "steep"])
def test_the_pace_finds_what_pays(checks: dict[int, float], right: float) -> None:
    ratios = []
    for seed in range(10):
        machine, pace = Machine(checks, 0.07, right, seed), Pace(ratio=0.07)
        machine.run(pace, 256)
        ratios.append(machine.run(pace, 1000) / machine.best())
    assert sum(ratios) / 10 > 0.9


def test_what_does_not_pay_is_left() -> None:
    """Fine guesses, but each as dear as half a step."""
    machine, pace = Machine(STEEP, 0.5, 0.7), Pace(ratio=0.5)
    machine.run(pace, 256)
    assert machine.run(pace, 1000) > 0.97
    assert sum(n > 0 for n in machine.lengths) < 100


def test_the_pace_follows_a_change() -> None:
    machine, pace = Machine(FLAT, 0.07, 0.0), Pace(ratio=0.07)
    machine.run(pace, 500)
    machine.right = 0.9
    machine.run(pace, 1000)
    assert machine.run(pace, 500) > 0.9 * machine.best()
    machine.right = 0.0
    machine.run(pace, 100)
    assert machine.run(pace, 500) > 0.97


def test_a_dear_drafter_gets_another_chance() -> None:
    """Useless for long, then nearly always right: found although every attempt costs more than two tokens."""
    machine, pace = Machine(FLAT, 0.5, 0.0), Pace(ratio=0.5)
    assert machine.run(pace, 3000) > 0.985
    machine.right = 1.0
    machine.run(pace, 3000)
    assert machine.run(pace, 500) > 0.9 * machine.best() > 1.3


def test_a_first_slow_check_is_not_believed() -> None:
    """A size's first run builds its graph; the next measurement must have a chance."""
    machine, pace = Machine(FLAT, 0.07, 1.0), Pace(ratio=0.07)
    machine.checks = {0: 1.0, 1: 4.0, 7: 4.0}
    machine.run(pace, 12)
    machine.checks = FLAT
    machine.run(pace, 2000)
    assert machine.run(pace, 500) > 0.9 * machine.best()


def test_unsure_guesses_are_not_checked() -> None:
    """Guesses of high confidence are always right, others never: after a while, only the former are checked."""
    pace, chance = Pace(ratio=0.07), random.Random(3)
    wasted = checked = 0
    for step in range(600):
        aim = pace.begin(100)
        confidences: list[float] = []
        while len(confidences) < aim:
            pace.drafted(0.07)
            confidences.append(chance.choice([0.99, 0.1]))
            aim = pace.go_on(aim, confidences, 100)
        accepted = next((i for i, c in enumerate(confidences[:aim]) if c < 0.5), aim)
        pace.checked(confidences, aim, accepted, 1 + 0.1 * aim)
        if step > 100:
            wasted, checked = wasted + (aim > accepted), checked + 1
    assert wasted / checked < 0.15


def test_a_fixed_length_is_kept() -> None:
    pace = Pace(3)
    assert [pace.begin(most) for most in (10, 3, 2, 0)] == [3, 3, 2, 0]
    assert pace.go_on(3, [0.001], 10) == 3


@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS)
def test_its_choice_is_near_the_best_fixed_length(costs: Costs) -> None:
    """Within 3 % at every acceptance, a useless drafter's too: the mean of six paces, over the next 1,000 tokens."""
    for right in (0.0, 0.6, 0.8, 0.9, 1.0):
        shares = []
        for seed in range(6):
            here = machine(costs, right, seed, NOISE)
            pace = Pace(ratio=here.draft)
            here.run(pace, SETTLED)
            here.run(pace, 1000)
            shares.append(here.worth / here.best())
        assert sum(shares) / 6 > 0.97, right


@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS)
def test_it_follows_a_text_that_changes(costs: Costs) -> None:
    """The same of texts one after another, each after 500 tokens: the pace remembers what no longer holds."""
    shares = []
    for seed in range(2):
        here = machine(costs, seed=seed, noise=NOISE)
        pace = Pace(ratio=here.draft)
        for here.right in (0.9, 0.3, 0.7, 0.0, 1.0, 0.5, 0.8):
            here.run(pace, 500)
            here.run(pace, 1500)
            shares.append(here.worth / here.best())
    assert sum(shares) / len(shares) > 0.97


@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS)
def test_it_follows_an_acceptance_that_drifts(costs: Costs) -> None:
    """From useless to nearly always right and back, without a pause: no fixed length is better over the whole."""
    pace, made = Pace(ratio=machine(costs).draft), 0.0
    spent, fixed = 0.0, [0.0] * 9
    for step in range(80):
        here = machine(costs, 0.95 - abs(step % 40 - 20) / 20 * 0.95, step, NOISE)
        here.run(pace, 100)
        tokens = sum(map(here.tokens, here.lengths))
        made, spent = made + tokens, spent + tokens / here.worth
        for m in range(9):
            fixed[m] += tokens * (here.check(m) + m * here.draft) / here.tokens(m)
    assert spent < 1.03 * min(fixed)
