"""How much memory this process has, and giving back what it does not use; torch is not needed."""

import contextlib
import ctypes
import os
import sys
from typing import Any


def resident_bytes() -> int:
    """Give this process's memory (where only its peak is known: that); 0 where nothing is."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_bytes()


def peak_bytes() -> int:
    """Give the most memory that this process has had; 0 where the system does not say."""
    # On Linux getrusage gives a child at least what its parent had had: five models that one
    # process started, one after another, all "needed" 658 MB.
    with contextlib.suppress(OSError), open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


SETTLED, GROWTH = 16, 1.5
"""So many updates show what is usual; so many times that is too much."""


class Heap:
    """Gives freed memory back to the system where it heaps up.

    The C library keeps what is freed. Where updates differ in shape, its holes fit nothing that
    comes next and add up: of a TextCNN on TREC-6 1 GB in ten seconds, of 0.6 that it needs. What
    one update frees the next one takes again, so not all is given back, only growth.
    """

    def __init__(self) -> None:
        self.usual, self.seen = 0, 0
        self.trim = _trim()

    def tidy(self) -> None:
        """Look at the end of an update, and give back where there is more than usual by far."""
        if self.trim is None:
            return
        now = resident_bytes()
        if self.seen < SETTLED:
            self.usual, self.seen = max(self.usual, now), self.seen + 1
        elif now > GROWTH * self.usual:
            self.trim(0)
            self.usual, self.seen = 0, 0


def _trim() -> Any:
    """Find glibc's malloc_trim; None: elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # another C library
        return None
