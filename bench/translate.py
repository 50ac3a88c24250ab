"""Sentences per second of beam search beside transformers' MarianMT of the same shape and weights.

    python bench/translate.py RUN FILE [--num-beams 5] [--rows 16 32 64] [--rounds 3]

RUN is a Transformer trained by ensue (post-norm, sinusoidal positions), FILE has one source on each
line; a line that stands there twice counts once. The weights are copied into a MarianMTModel, so
that both search the same function. Ours is what a user calls: lines in, lines out. The peer gets
ids, sorted by length, in fp32, in bf16 products and wholly in bf16, at each number of rows, one
batch at a time and, as ours are, side by side on one thread each (2x64); its best counts. Rounds
are interleaved, the median is printed, and how many translations are the same.
"""

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import MarianConfig, MarianMTModel

import ensue
from ensue.threads import side_by_side
from ensue.translator import Search

Ids = list[list[int]]
Most = Callable[[int], int]


def marian_of(model: Any, eos: int) -> Any:
    """Make transformers' model with our weights; padding is an entry more, and never said."""
    c, d = model.config, model.config.d_model
    shape = {
        "layers": c.num_layers,
        "attention_heads": c.num_heads,
        "ffn_dim": c.d_ff or 4 * d,
    }
    both = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in shape.items()}
    vocab = c.vocab_size + 1
    theirs = MarianMTModel(
        MarianConfig(
            vocab_size=vocab,
            d_model=d,
            activation_function=c.activation,
            scale_embedding=True,
            max_position_embeddings=c.context_length,
            pad_token_id=vocab - 1,
            decoder_start_token_id=vocab - 1,
            dropout=0.0,
            **both,
        )
    ).eval()
    matched: list[tuple[torch.Tensor, torch.Tensor]] = []

    def layer(a: Any, b: Any) -> None:
        matched.extend([(a.weight, b.weight), (a.bias, b.bias)])

    def parts(many: list[Any], b: Any) -> None:
        for a, weight, bias in zip(
            many, b.weight.chunk(len(many)), b.bias.chunk(len(many)), strict=True
        ):
            matched.extend([(a.weight, weight), (a.bias, bias)])

    stacks = [(theirs.model.encoder, model.encoder), (theirs.model.decoder, model.decoder)]
    for a, b in [pair for them, us in stacks for pair in zip(them.layers, us, strict=True)]:
        own = a.self_attn
        parts([own.q_proj, own.k_proj, own.v_proj], b.attention.qkv)
        layer(own.out_proj, b.attention.out)
        layer(a.fc1, b.mlp.up)
        layer(a.fc2, b.mlp.down)
        layer(a.self_attn_layer_norm, b.residual1.norm)
        if hasattr(a, "encoder_attn"):
            parts([a.encoder_attn.k_proj, a.encoder_attn.v_proj], b.cross.kv)
            layer(a.encoder_attn.q_proj, b.cross.q)
            layer(a.encoder_attn.out_proj, b.cross.out)
            layer(a.encoder_attn_layer_norm, b.residual2.norm)
            layer(a.final_layer_norm, b.residual3.norm)
        else:
            layer(a.final_layer_norm, b.residual2.norm)
    with torch.no_grad():
        for a, b in matched:
            a.copy_(b)
        words = theirs.model.shared.weight
        words[:-1] = model.vocabulary.embedding.weight
        words[-1] = model.vocabulary.embedding.weight[eos]  # it begins a target, as ours does
        theirs.final_logits_bias[0, :-1] = model.vocabulary.bias
        theirs.final_logits_bias[0, -1] = -1e4
    theirs.tie_weights()
    return theirs


def batches(sources: Ids, rows: int) -> list[list[int]]:
    order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
    return [order[i : i + rows] for i in range(0, len(order), rows)]


def generated(
    model: Any, sources: Ids, rows: int, beams: int, most: Most, eos: int, lower: bool, workers: int
) -> Ids:
    found: Ids = [[] for _ in sources]
    pad = model.config.pad_token_id

    def work(batch: list[int]) -> None:
        longest = max(len(sources[i]) for i in batch)
        src = torch.full((len(batch), longest), pad)
        for row, i in zip(src, batch, strict=True):
            row[: len(sources[i])] = torch.tensor(sources[i])
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            given = model.generate(
                input_ids=src,
                attention_mask=(src != pad).long(),
                num_beams=beams,
                do_sample=False,
                length_penalty=1.0,
                early_stopping=False,
                max_new_tokens=most(longest),
                eos_token_id=eos,
                forced_eos_token_id=None,
                bad_words_ids=None,
            )
        for i, row in zip(batch, given[:, 1:].tolist(), strict=True):
            found[i] = row[: row.index(eos)] if eos in row else row

    list(side_by_side(work, batches(sources, rows), workers))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("file")
    parser.add_argument("--num-beams", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=0, help="only so many; 0: all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")

    translator = ensue.load_translator(args.run)
    model: Any = translator.model
    with open(args.file, encoding="utf-8") as file:
        lines = list(dict.fromkeys(" ".join(line.split()) for line in file if line.strip()))
    if args.sentences:
        lines = lines[:: max(1, len(lines) // args.sentences)][: args.sentences]
    eos = translator.tgt_tokenizer.eos_id
    assert eos == translator.src_tokenizer.eos_id
    sources = [[*translator.src_tokenizer.encode(line), eos] for line in lines]
    assert translator.sides is not None
    most = translator.sides.most
    peer = marian_of(model, eos)

    half = marian_of(model, eos).bfloat16()

    def ours(kind: str) -> list[str]:
        return translator.translate(lines, Search(num_beams=args.num_beams, precision=kind))

    def theirs(kind: str, rows: int, workers: int) -> list[str]:
        one = half if kind == "all-bf16" else peer
        lower = kind == "bf16"
        found = generated(one, sources, rows, args.num_beams, most, eos, lower, workers)
        return [translator.tgt_tokenizer.decode(ids).strip() for ids in found]

    ways: dict[str, Callable[[], list[str]]] = {
        f"ours-{kind}": partial(ours, kind) for kind in ("fp32", "bf16")
    }
    for rows in args.rows:
        for kind in ("fp32", "bf16", "all-bf16"):
            for workers in sorted({1, args.threads}):
                name = f"peer-{kind}-{workers}x{rows}"
                ways[name] = partial(theirs, kind, rows, workers)
    print(f"machine   {platform.machine()}, {args.threads} threads, torch {torch.__version__}")
    print(f"task      {len(sources)} sentences, {args.num_beams} beams, rounds {args.rounds}")
    results: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            results[name] = way()
            seconds[name].append(time.perf_counter() - begun)
    speed = {name: len(sources) / statistics.median(s) for name, s in seconds.items()}
    best = max(v for name, v in speed.items() if name.startswith("peer"))
    reference = results[f"peer-fp32-1x{args.rows[0]}"]
    print(f"{'way':<20} {'sentences/s':>12} {'ratio to best peer':>19} {'same as peer fp32':>18}")
    for name, value in speed.items():
        same = sum(a == b for a, b in zip(results[name], reference, strict=True)) / len(sources)
        print(f"{name:<20} {value:>12.1f} {value / best:>19.2f} {same:>18.1%}")


if __name__ == "__main__":
    main()
