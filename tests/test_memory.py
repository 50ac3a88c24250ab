"""What a process is said to have needed."""

import subprocess
import sys

import pytest

from ensue.memory import peak_bytes

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
