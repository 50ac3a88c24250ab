"""Tokens per second of a trained run: with the decoder's state, and recomputing the whole prefix.

    python bench/generation.py RUN [--rows 1 8 32] [--new-tokens 64] [--rounds 5] [--threads N]

Greedy, prompts of equal length, no stop ids, so that both do the same work; rounds are interleaved
and the median is printed. First the tokens are checked: the engine's must be the likeliest after a
recomputed prefix, wherever the two likeliest logits differ by more than 1e-4 (below that, rounding
decides).
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ensue
from ensue.decoding.engine import generate
from ensue.decoding.logits import Sampling

TIE = 1e-4


def with_state(model: Any, prompts: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """Generate as ensue does."""
    greedy = Sampling(temperature=0.0, max_new_tokens=new_tokens)
    given: list[list[int]] = [[] for _ in prompts]
    for event in generate(model, prompts.tolist(), [greedy] * len(prompts)):
        given[event.row].append(event.token)
    return torch.tensor(given)


@torch.inference_mode()
def recomputing(model: Any, prompts: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """Generate without any state: read everything again for each token."""
    tokens = prompts
    for _ in range(new_tokens):
        hidden, _ = model(tokens)
        newest = model.head(hidden[:, -1]).argmax(dim=-1, keepdim=True)
        tokens = torch.cat([tokens, newest], dim=1)
    return tokens[:, prompts.shape[1] :]


@torch.inference_mode()
def check(model: Any, prompts: torch.Tensor, given: torch.Tensor) -> tuple[int, int]:
    """Compare with the likeliest tokens after each recomputed prefix; give (compared, ties)."""
    tokens = torch.cat([prompts, given], dim=1)
    ties = 0
    for n in range(prompts.shape[1], tokens.shape[1]):
        hidden, _ = model(tokens[:, :n])
        logits = model.head(hidden[:, -1])
        top = logits.topk(2, dim=-1).values
        tie = top[:, 0] - top[:, 1] <= TIE
        wrong = (logits.argmax(dim=-1) != tokens[:, n]) & ~tie
        assert not wrong.any(), f"token {n} of rows {wrong.nonzero()[:, 0].tolist()} differs"
        ties += int(tie.sum())
    return given.numel(), ties


def seconds(run: Callable[..., object], *arguments: object) -> float:
    begin = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - begin


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    generator = ensue.load(args.run)
    model: Any = generator.model
    limit = model.max_length
    room = args.new_tokens if limit is None else limit + 1 - args.prompt_tokens
    new_tokens = min(args.new_tokens, room)
    if new_tokens < 1:
        parser.error(f"--prompt-tokens {args.prompt_tokens} fills the context of {limit}")

    print(f"machine   {processor()}, {args.threads} threads, {platform.system()}")
    print(f"versions  ensue {ensue.__version__}, torch {torch.__version__}")
    print(f"run       {generator!r}, {sum(p.numel() for p in model.parameters()):,} parameters")
    print(f"protocol  greedy, {args.prompt_tokens} + {new_tokens} tokens, median of {args.rounds}")
    print(f"{'rows':>6} {'state':>12} {'recomputing':>12} {'ratio':>7}   tokens/s; tokens compared")
    for rows in args.rows:
        draw = torch.Generator().manual_seed(rows)
        shape = (rows, args.prompt_tokens)
        prompts = torch.randint(generator.tokenizer.vocab_size, shape, generator=draw)
        given = with_state(model, prompts, new_tokens)
        compared, ties = check(model, prompts, given)
        ways = (with_state, recomputing)
        times: dict[str, list[float]] = {way.__name__: [] for way in ways}
        for _ in range(args.rounds):
            for way in ways:
                times[way.__name__].append(seconds(way, model, prompts, new_tokens))
        fast, slow = (rows * new_tokens / statistics.median(t) for t in times.values())
        notes = f"{compared:,} equal, {ties} within {TIE:g}"
        print(f"{rows:>6} {fast:>12,.0f} {slow:>12,.0f} {fast / slow:>6.1f}x   {notes}")


if __name__ == "__main__":
    main()
