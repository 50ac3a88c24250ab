"""Convolutions over pictures, forward and backward, in several numbers and layouts.

    python bench/picture_conv.py

Each shape is C channels to F filters of 3 by 3 over 128 pictures of H by H. "taps" lays the taps
side by side and is one matrix product, as `ensue.nn.conv.CausalConv` does along a sequence. The
rounds are interleaved; the medians are given in milliseconds and GFLOP/s.
"""

import platform
import statistics
import time
from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS, ROUNDS = 128, 7
SHAPES = ((1, 32, 28), (32, 32, 28), (32, 64, 14), (64, 64, 14), (64, 128, 7))


def conv(
    channels: int, filters: int, side: int, dtype: torch.dtype, last: bool
) -> Callable[[], Tensor]:
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(ROWS, channels, side, side, dtype=dtype).contiguous(memory_format=layout)
    w = torch.randn(filters, channels, 3, 3, dtype=dtype).contiguous(memory_format=layout)
    x.requires_grad_(), w.requires_grad_()
    return lambda: F.conv2d(x, w, padding=1)


def taps(channels: int, filters: int, side: int) -> Callable[[], Tensor]:
    x = torch.randn(ROWS, side, side, channels, dtype=torch.bfloat16, requires_grad=True)
    w = torch.randn(filters, 9 * channels, dtype=torch.bfloat16, requires_grad=True)

    def run() -> Tensor:
        seen = F.pad(x, (0, 0, 1, 1, 1, 1))
        beside = [seen[:, i : i + side, j : j + side] for i, j in product(range(3), range(3))]
        return F.linear(torch.cat(beside, dim=-1), w)

    return run


def seconds(run: Callable[[], Tensor]) -> float:
    begun = time.perf_counter()
    found = run()
    found.backward(found.detach())
    return time.perf_counter() - begun


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor()}")
    for channels, filters, side in SHAPES:
        ways = {
            "fp32": conv(channels, filters, side, torch.float32, False),
            "fp32, channels last": conv(channels, filters, side, torch.float32, True),
            "bf16, channels last": conv(channels, filters, side, torch.bfloat16, True),
            "bf16, taps": taps(channels, filters, side),
        }
        for run in ways.values():
            seconds(run)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, run in ways.items():
                taken[name].append(seconds(run))
        flops = 6 * ROWS * side**2 * filters * channels * 9
        for name, times in taken.items():
            median = statistics.median(times)
            print(
                f"{channels:3} to {filters:3}, {side} x {side}, {name:20}"
                f" {1000 * median:7.2f} ms {flops / median / 1e9:5.0f} GFLOP/s"
            )


if __name__ == "__main__":
    main()
