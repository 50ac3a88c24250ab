"""How torch's threads are shared out on a processor."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar

import torch

T = TypeVar("T")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let each operation inside the block have so many threads; of the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(work: Callable[[T], object], items: Sequence[T], workers: int) -> Iterator[T]:
    """Work on several items at once, each with its share of torch's threads; give each when done.

    Many small operations in a row gain little from a second thread: a beam search on two cores a
    third, while two searches of one thread each are 1.6 times as fast (docs/experiments.md).
    When one fails, or no more are asked for, what is begun is finished and what waits is dropped.

    Args:
        work: Must bear to be run on several items at once.
        items: What it works on, in the order in which they are begun.
        workers: So many at once, at most.
    """
    workers = min(workers, len(items))
    if workers < 2:
        for item in items:
            work(item)
            yield item
        return
    each = max(1, torch.get_num_threads() // workers)
    with torch_threads(each), ThreadPoolExecutor(workers) as pool:
        begun = {pool.submit(copy_context().run, work, item): item for item in items}
        try:
            for one in as_completed(begun):
                one.result()
                yield begun[one]
        finally:
            pool.shutdown(cancel_futures=True)
