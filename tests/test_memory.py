"""What a process is said to have needed."""

import subprocess
import sys

import pytest

from ensue.memory import SETTLED, Heap, peak_bytes

CHILD = "from ensue.memory import peak_bytes; print(peak_bytes())"
PARENT = f"""
import subprocess, sys
room = bytearray(b"x" * (300 << 20))
print(subprocess.run([sys.executable, "-c", {CHILD!r}], capture_output=True, text=True).stdout)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="not known there")
def test_a_child_does_not_report_what_its_parent_needed() -> None:
    """On Linux getrusage does: every run of a comparison had its planner's peak."""
    done = subprocess.run(
        [sys.executable, "-c", PARENT], capture_output=True, text=True, check=True
    )
    assert 1 << 20 < int(done.stdout) < 200 << 20
    assert peak_bytes() > 1 << 20


HEAP = """
from ensue.memory import SETTLED, Heap, resident_bytes
heap = Heap()
for _ in range(SETTLED):
    heap.tidy()
before = resident_bytes()
blocks = [bytes(1000) for _ in range(200_000)]
kept = blocks[-1]  # of the heap's end: below it nothing is given back by itself
blocks.clear()
heaped = resident_bytes()
heap.tidy()
print(before, heaped, resident_bytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_freed_memory_that_heaps_up_is_given_back() -> None:
    """A text classifier's updates, each of another shape, had grown to 7 GB in a minute."""
    done = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True)
    before, heaped, after = map(int, done.stdout.split())
    if Heap().trim is None:
        pytest.skip("another C library than glibc")
    assert heaped > before + (150 << 20)
    assert after < before + (30 << 20)


def test_what_is_usual_is_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next update would take it again, page by page."""
    heap, sizes, trims = Heap(), [], []
    monkeypatch.setattr("ensue.memory.resident_bytes", lambda: sizes.pop(0))
    heap.trim = trims.append
    sizes += [100] * 10 + [300] * 6 + [440] * 20
    for _ in range(36):
        heap.tidy()
    assert not trims
    sizes += [451] + [100] * SETTLED + [149, 151]
    for _ in range(SETTLED + 2):
        heap.tidy()
    assert len(trims) == 1
    heap.tidy()
    assert len(trims) == 2
    heap.trim = None
    heap.tidy()  # elsewhere there is nothing to do
