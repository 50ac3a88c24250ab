"""Texts per second through BERT-base, beside transformers' BertModel with the same weights.

    python bench/bert_encode.py [--ways peer-sdpa-bf16 ours-bf16] [--rounds 5] [--threads 2]

32 rows of 128 tokens, all full, and of lengths drawn from 16 to 128, padded to the longest; random
weights, no gradients. The peer is asked in fp32 and wholly in bf16, with its fused attention (sdpa)
and its own (eager); where asked for, also compiled (``peer-sdpa-bf16-compiled``), and
compiled with frozen weights, which are then laid out once (``peer-eager-bf16-frozen``). Rounds are
interleaved, the medians count; differences are the largest of any number at a word from the peer in
fp32. The share of the peak is of products and attention at words, against the fastest product of
2,048 squared in the same run.
"""

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import BertConfig as TheirConfig
from transformers import BertModel

from ensue.models.bert import PUBLISHED, Bert
from ensue.nn.precision import precision

ROWS, STEPS = 32, 128
WAYS = [
    *("peer-sdpa-fp32", "peer-eager-fp32", "peer-sdpa-bf16", "peer-eager-bf16"),
    *("ours-fp32", "ours-bf16"),
]


def their_model(ours: Bert, attention: str) -> Any:
    """Make transformers' model with our weights."""
    theirs = BertModel(TheirConfig(attn_implementation=attention)).eval()
    embeddings = theirs.embeddings
    matched = [
        (embeddings.word_embeddings.weight, ours.token_embedding.weight),
        (embeddings.position_embeddings.weight, ours.position_embedding.weight),
        (embeddings.token_type_embeddings.weight, ours.segment_embedding.weight),
    ]
    layers: list[tuple[Any, Any]] = [(theirs.pooler.dense, ours.pooler)]
    layer: Any
    for a, layer in zip(theirs.encoder.layer, ours.layers, strict=True):
        for i, part in enumerate((a.attention.self.query, a.attention.self.key)):
            matched.append((part.weight, layer.attention.qkv.weight.chunk(3)[i]))
        matched.append((a.attention.self.value.weight, layer.attention.qkv.weight.chunk(3)[2]))
        layers.append((a.attention.output.dense, layer.attention.out))
        layers += [(a.intermediate.dense, layer.mlp.up), (a.output.dense, layer.mlp.down)]
    matched += [(a.weight, b.weight) for a, b in layers]  # biases are 0, gains 1 in both
    with torch.no_grad():
        for to, source in matched:
            to.copy_(source)
    return theirs


Way = Callable[[Tensor], Tensor]


def way_of(name: str, ours: Bert, ids: Tensor) -> Way:
    """Give what encodes the first words of each row, so many as it is told."""
    whose, _, kind = name.partition("-")
    if whose == "ours":
        return lambda length: ours(ids, length)
    attention, kind, *compiled = kind.split("-")
    model = their_model(ours, attention)
    model = model.bfloat16() if kind == "bf16" else model
    options: dict[str, Any] = {"freezing": compiled == ["frozen"]}
    call = torch.compile(model, options=options) if compiled else model
    return lambda length: call(input_ids=ids, attention_mask=words_of(length)).last_hidden_state


def words_of(length: Tensor) -> Tensor:
    return torch.arange(STEPS) < length[:, None]


def flops(length: Tensor) -> int:
    """Count operations of a forward pass at words, products and attention."""
    c = PUBLISHED["bert-base"]
    n, d = length.double(), c.d_model
    return int(c.num_layers * (24 * d * d * n + 4 * d * n * n).sum())


def peak(rounds: int = 3) -> float:
    """Measure a bf16 product of 2,048 squared, in GFLOP/s."""
    a = torch.randn(2048, 2048).bfloat16()
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - begun)
    return 2 * 2048**3 / min(seconds) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ways", nargs="+", default=WAYS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--lengths", nargs="+", default=["full", "ragged"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    ours = Bert(PUBLISHED["bert-base"]).eval()
    ids = torch.randint(1, 30522, (ROWS, STEPS))
    drawn = torch.randint(16, STEPS + 1, (ROWS,))
    drawn[0] = STEPS
    lengths = {"full": torch.full((ROWS,), STEPS), "ragged": drawn}
    print(
        f"machine   {platform.machine()}, {args.threads} threads, torch {torch.__version__},"
        f" transformers {transformers.__version__}"
    )
    print(f"task      {ROWS} rows, {STEPS} places, or {drawn.float().mean():.0f} words in the mean")
    with torch.inference_mode():
        ways = {name: way_of(name, ours, ids) for name in args.ways}
        exact = way_of("peer-sdpa-fp32", ours, ids)
        # One block for all, as around many batches: in a block of their own the weights would be
        # cast and laid out in each round.
        with precision("bf16"):
            for kind in args.lengths:
                measure(kind, ways, exact, lengths[kind], args.rounds)


def measure(kind: str, ways: dict[str, Way], exact: Way, length: Tensor, rounds: int) -> None:
    words = words_of(length)
    expected = exact(length)[words]
    apart = {
        name: float((run(name, way, length)[words] - expected).abs().max())
        for name, way in ways.items()
    }
    best_peak = 0.0
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        best_peak = max(best_peak, peak())
        for name, way in ways.items():
            begun = time.perf_counter()
            run(name, way, length)
            seconds[name].append(time.perf_counter() - begun)
    taken = {name: statistics.median(s) for name, s in seconds.items()}
    report(kind, taken, apart, flops(length), best_peak)


def run(name: str, way: Way, length: Tensor) -> Tensor:
    if name == "ours-fp32":
        with precision("fp32"):
            return way(length)
    return way(length)


def report(
    kind: str, taken: dict[str, float], apart: dict[str, float], count: int, best_peak: float
) -> None:
    peers = [s for name, s in taken.items() if name.startswith("peer")]
    print(f"{kind}: {count / 1e9:.0f} GFLOP at words, peak {best_peak:.0f} GFLOP/s in bf16")
    print(f"{'way':<26} {'ms':>7} {'rows/s':>7} {'to best peer':>13} {'of peak':>8} {'apart':>9}")
    for name, s in taken.items():
        ratio = min(peers) / s if peers else float("nan")
        share = count / s / 1e9 / best_peak
        print(
            f"{name:<26} {1000 * s:>7.0f} {ROWS / s:>7.1f} {ratio:>13.2f} {share:>8.0%}"
            f" {apart[name]:>9.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
