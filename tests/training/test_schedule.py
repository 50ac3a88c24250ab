"""The learning rate over a run."""

import math
from itertools import pairwise

import pytest

from ensue.training.config import SCHEDULES
from ensue.training.schedule import lr_share


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (2, 1), (10, 0), (100, 10), (1000, 100)])
def test_it_reaches_zero_just_after_the_last_step(schedule: str, steps: int, warmup: int) -> None:
    """A last update of zero would be a step paid for and not taken; a high one is not annealed."""
    assert lr_share(steps, steps, warmup, schedule) == pytest.approx(0.0, abs=1e-12)
    assert lr_share(steps - 1, steps, warmup, schedule) > 0
    shares = [lr_share(i, steps, warmup, schedule) for i in range(warmup, steps + 1)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_rises_evenly_from_above_zero_to_the_peak(schedule: str) -> None:
    """A first update of zero would be wasted; a jump at its end would be no warm-up."""
    shares = [lr_share(i, 100, 4, schedule) for i in range(5)]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine_is_at_half_in_the_middle() -> None:
    assert lr_share(60, 110, 10, "cosine") == pytest.approx(0.5)
    assert lr_share(35, 110, 10, "cosine") == pytest.approx(0.5 + 0.5 * math.sqrt(0.5))


def test_inverse_sqrt_is_that_of_the_paper() -> None:
    """Equation 3, up to its constant: min(step^-0.5, step * warmup^-1.5)."""
    warmup = 40
    paper = [min(s**-0.5, s * (warmup + 1) ** -1.5) for s in range(1, 401)]
    ours = [lr_share(s - 1, 400, warmup, "inverse_sqrt") for s in range(1, 401)]
    assert ours == pytest.approx([p * (warmup + 1) ** 0.5 for p in paper])


def test_constant_stays() -> None:
    assert {lr_share(i, 50, 5, "constant") for i in range(5, 51)} == {1.0}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warm_up_longer_than_the_run_never_fails(schedule: str) -> None:
    """No division by zero, and never above the peak."""
    shares = [lr_share(i, 5, 10, schedule) for i in range(5)]
    assert all(0 < share < 1 for share in shares)
    assert lr_share(10, 10, 10, schedule) in (0.0, 1.0)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("ends", [[100, 60], [100, 200], [100, 80, 120], [100, 100]])
def test_a_moved_end_bends_the_curve_and_tears_nothing(schedule: str, ends: list[int]) -> None:
    """A jump of the rate would be a second warm-up; an update before the fit may not change."""
    fits = [(20 + 20 * i, end) for i, end in enumerate(ends[:-1])]
    rates = [lr_share(i, ends[-1], 10, schedule, fits) for i in range(ends[-1] + 1)]
    before = [lr_share(i, ends[0], 10, schedule) for i in range(21)]
    assert rates[:21] == before
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    stretches = zip([10, *(at for at, _ in fits)], ends, strict=True)
    steepest = math.pi / 2 / min(end - at for at, end in stretches)
    assert max(a - b for a, b in pairwise(rates[10:])) <= steepest
