"""How much memory this process has; torch is not needed to ask."""

import contextlib
import os
import sys


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
