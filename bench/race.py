"""The same minutes given to nanoGPT's model and loop, on Tiny Shakespeare, beside ensue's run.

    python bench/race.py --nanogpt PATH_OF_NANOGPT --text input.txt --out DIR [--seconds 180]

nanoGPT gets its CPU recipe and three larger shapes, each the whole time; its loop is train.py's
(random windows, AdamW 0.9/0.99 decay 0.1, clip 1, warm-up 100, cosine to a tenth), with the cosine
fitted to the clock so that it ends with the time, and bf16 autocast where that is faster. Each is
scored like ensue: the last tenth, non-overlapping windows, every character once. Curves go to CSV.
"""

import argparse
import contextlib
import csv
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

SHAPES = {
    # name: (layers, heads, width, context, rows, peak lr, dropout, bf16)
    "cpu-recipe": (4, 4, 128, 64, 12, 1e-3, 0.0, False),
    "4x192": (4, 6, 192, 128, 16, 2e-3, 0.0, True),
    "6x256": (6, 8, 256, 128, 16, 1.5e-3, 0.0, True),
    "gpu-recipe": (6, 6, 384, 256, 12, 1e-3, 0.2, True),
}


def read(path: str) -> tuple[np.ndarray, np.ndarray, int]:
    text = Path(path).read_text(encoding="utf-8")
    ids = {c: i for i, c in enumerate(sorted(set(text)))}
    tokens = np.array([ids[c] for c in text], dtype=np.int64)
    cut = int(0.9 * len(tokens))
    return tokens[:cut], tokens[cut:], len(ids)


@torch.inference_mode()
def score(model: Any, valid: np.ndarray, context: int) -> float:
    """Give nats per character over all of `valid`; the first one has no context and is left out."""
    model.eval()
    total, count = 0.0, 0
    starts = np.arange(0, len(valid) - 1, context)
    for group in np.array_split(starts, max(1, len(starts) * context // 8192)):
        for whole in (True, False):
            part = [s for s in group if (s + context < len(valid)) == whole]
            if part:
                stop = context if whole else len(valid) - 1 - part[0]
                index = np.array(part)[:, None] + np.arange(stop + 1)
                window = torch.from_numpy(valid[index])
                loss = model(window[:, :-1], window[:, 1:].contiguous())[1]
                total += float(loss) * window[:, 1:].numel()
                count += window[:, 1:].numel()
    model.train()
    return total / count


def race(name: str, nanogpt: str, path: str, seconds: float) -> list[tuple[str, float, int, float]]:
    sys.path.insert(0, nanogpt)
    from model import GPT, GPTConfig

    layers, heads, width, context, rows, peak, dropout, bf16 = SHAPES[name]
    train, valid, vocab = read(path)
    torch.manual_seed(1337)
    config = GPTConfig(
        block_size=context,
        vocab_size=vocab,
        n_layer=layers,
        n_head=heads,
        n_embd=width,
        dropout=dropout,
        bias=False,
    )
    with contextlib.redirect_stdout(sys.stderr):
        model = GPT(config)
        optimizer = model.configure_optimizers(0.1, peak, (0.9, 0.99), "cpu")
    generator = torch.Generator().manual_seed(1337)
    curve: list[tuple[str, float, int, float]] = []
    spent, step, next_score = 0.0, 0, seconds / 6
    while spent < seconds:
        begun = time.perf_counter()
        share = min(1.0, spent / seconds)
        lr = peak * min(1.0, (step + 1) / 100) * (0.55 + 0.45 * math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = lr
        starts = torch.randint(len(train) - context, (rows,), generator=generator).numpy()
        window = torch.from_numpy(train[starts[:, None] + np.arange(context + 1)])
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = model(window[:, :-1], window[:, 1:].contiguous())[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        spent += time.perf_counter() - begun
        step += 1
        if spent >= next_score or spent >= seconds:  # scoring is not charged to nanoGPT
            curve.append((name, spent, step, score(model, valid, context)))
            print(f"{name}: {spent:.0f} s, {step} steps, {curve[-1][3]:.4f} nats", flush=True)
            next_score += seconds / 6
    return curve


def ensue(path: str, out: Path, seconds: float) -> list[tuple[str, float, int, float]]:
    begun = time.perf_counter()
    run = out / "ensue"
    command = [sys.executable, "-m", "ensue.cli", "train", path, "--budget", f"{seconds:g}s"]
    subprocess.run([*command, "--out", str(run)], check=True)
    print(f"ensue: {time.perf_counter() - begun:.0f} s for the whole command")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds_at = {r["step"]: r["seconds"] for r in lines if r["kind"] == "step"}
    scores = [r for r in lines if r["kind"] in ("eval", "final")]
    nats = math.log(2)  # a byte is a character in this text
    return [("ensue", seconds_at[r["step"]], r["step"], r["bits_per_byte"] * nats) for r in scores]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nanogpt", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in args.only.split(",") if args.only else ["ensue", *SHAPES]:
        if name == "ensue":
            rows += ensue(args.text, out, args.seconds)
        else:
            rows += race(name, args.nanogpt, args.text, args.seconds)
        with open(out / "race.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("run", "seconds", "steps", "nats_per_character"), *rows])


if __name__ == "__main__":
    main()
