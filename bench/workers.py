"""Interleaved timing of training steps that live in processes of their own.

No allocator setting and no thread pool is shared; the specs take turns (A B C A B C ...), so that a
machine whose speed drifts, drifts for all of them.
"""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch


def serve(step: Callable[[Any], float], batches: Iterator[Any]) -> None:
    """Answer each number on standard input with the seconds and losses of so many steps."""
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        seconds, losses = [], []
        for _ in range(int(line)):
            batch = next(batches)
            begun = time.perf_counter()
            losses.append(step(batch).hex())
            seconds.append(time.perf_counter() - begun)
        print(*seconds, "|", *losses, file=out, flush=True)


class Worker:
    """One spec in its own process."""

    def __init__(self, script: str, spec: str, arguments: list[str]) -> None:
        command = [sys.executable, script, "--worker", spec, *arguments]
        self.spec = spec
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def ask(self, steps: int, counted: bool = True) -> None:
        """Let it do some steps."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        seconds, losses = self.process.stdout.readline().split("|")
        if counted:
            self.seconds += map(float, seconds.split())
        self.losses += map(float.fromhex, losses.split())


def compare(
    script: str, arguments: list[str], specs: list[str], rounds: int, steps: int, flops: float
) -> None:
    """Time the specs in turn and print a table; ratios are to the best spec named ``peer-…``."""
    workers = [Worker(script, spec, arguments) for spec in specs]
    for worker in workers:
        worker.ask(3, counted=False)
    for _ in range(rounds):
        for worker in workers:
            worker.ask(steps)
    medians = {w.spec: statistics.median(w.seconds) for w in workers}
    peer = min((s for name, s in medians.items() if name.startswith("peer")), default=0.0)
    peak = matmul_peak()
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads,")
    print(
        f"{' '.join(arguments)}; bf16 product {peak / 1e9:.0f} GFLOP/s; medians of {rounds}x{steps}"
    )
    print(
        "spec, ms/step, ratio to best peer, share of the measured peak, steps, mean loss of last 10"
    )
    for worker in workers:
        ms = medians[worker.spec] * 1e3
        share = flops / medians[worker.spec] / peak
        loss = statistics.mean(worker.losses[-10:])
        count = len(worker.losses)
        print(f"{worker.spec}, {ms:.1f}, {peer * 1e3 / ms:.2f}, {share:.2f}, {count}, {loss:.4f}")
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        worker.process.wait()


def matmul_peak(seconds: float = 1.0) -> float:
    """Measure the bf16 matrix product of 2,048 squared, in FLOP/s: the best of many."""
    a = torch.randn(2048, 2048, dtype=torch.bfloat16)
    b = torch.randn(2048, 2048, dtype=torch.bfloat16)
    best, stop = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < stop:
        begun = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begun)
    return 2 * 2048**3 / best
