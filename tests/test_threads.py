"""Work side by side: all of it done, errors told, threads given back."""

import threading
import time
from contextvars import ContextVar

import pytest
import torch

from ensue.threads import side_by_side, torch_threads


def test_each_is_worked_on_once_with_its_share_of_threads() -> None:
    """Two that wait for each other end only when they are worked on at once."""
    with torch_threads(4):
        meeting = threading.Barrier(2)
        seen: list[tuple[int, int]] = []

        def work(item: int) -> None:
            meeting.wait(timeout=60)
            seen.append((item, torch.get_num_threads()))

        assert sorted(side_by_side(work, range(6), 2)) == list(range(6))
        assert sorted(seen) == [(i, 2) for i in range(6)]
        assert torch.get_num_threads() == 4


def test_what_is_set_around_it_holds_inside() -> None:
    """A context such as `capture`, set by the caller, was not known to the other threads."""
    tapped: ContextVar[str] = ContextVar("tapped", default="nothing")
    seen: list[str] = []
    tapped.set("all")
    with torch_threads(2):
        list(side_by_side(lambda item: seen.append(tapped.get()), range(3), 2))
    assert seen == ["all"] * 3


@pytest.mark.parametrize(("items", "workers"), [(1, 4), (3, 1), (0, 4)])
def test_what_is_alone_stays_where_it_is(items: int, workers: int) -> None:
    """One item has all threads, and no other thread is begun for it."""
    here = threading.get_ident()
    with torch_threads(3):
        done = [
            (item, threading.get_ident(), torch.get_num_threads())
            for item in side_by_side(lambda item: None, range(items), workers)
        ]
    assert done == [(i, here, 3) for i in range(items)]


def test_a_failure_is_raised_and_what_waits_is_dropped() -> None:
    """The others are not begun: a person who is told of an error should not wait for them."""
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise ValueError("no")
        time.sleep(0.01)

    with torch_threads(2):
        with pytest.raises(ValueError, match="no"):
            list(side_by_side(work, range(1000), 2))
        assert len(begun) < 1000
        assert torch.get_num_threads() == 2


def test_who_asks_for_no_more_gets_no_more() -> None:
    """An interrupt while one is waited for drops the rest."""
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        time.sleep(0.01)

    with torch_threads(2):
        results = side_by_side(work, range(1000), 2)
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert len(begun) < 1000
        assert torch.get_num_threads() == 2
