"""One training step on pairs beside torch.nn: the Transformer, and LSTMs with attention.

    python bench/train_pairs.py --model transformer         (3 + 3 layers, width 256)
    python bench/train_pairs.py --model seq2seq_attention    (width 512)

Batches look like Multi30k's: 128 pairs, sources and targets of 10 to 20 tokens, of 8,000 words.
Same first weights, batches, dropout and AdamW with clipping. The peer is nn.Transformer, or
nn.LSTM on packed sequences, as their manuals say, with one embedding as input and output; the specs
with "scored" form logits of targets alone, and not of padding, as ensue does. With --dropout 0 all
specs have the same losses.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from workers import compare, serve

from ensue.distributed.shard import compile_blocks
from ensue.models.seq2seq_attention import Seq2SeqAttention, Seq2SeqAttentionConfig
from ensue.models.transformer import Transformer, TransformerConfig
from ensue.nn.loss import cross_entropy_sum
from ensue.nn.positions import sinusoids
from ensue.nn.precision import precision
from ensue.training.config import TrainConfig
from ensue.training.optim import Optimizer

V, ROWS, SHORT, LONG = 8000, 128, 10, 20
WIDTH = {"transformer": 256, "seq2seq_attention": 512}
LAYERS, HEADS = 3, 4
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def batches() -> Iterator[Batch]:
    """Give pairs of which the target is the source, each word renamed: something can be learnt."""
    generator = torch.Generator().manual_seed(1)
    while True:
        length = torch.randint(SHORT, LONG + 1, (ROWS,), generator=generator)
        src = (torch.rand(ROWS, LONG, generator=generator) ** 3 * (V - 1)).long() + 1
        inside = torch.arange(LONG) < length[:, None]
        targets = ((src * 7) % V).masked_fill(~inside, -1)
        begun = F.pad(targets.clamp(min=0), (1, 0))[:, :-1]
        yield src.masked_fill(~inside, 0), length, begun, targets


class Peer(nn.Module):
    """Embedding in, embedding out."""

    scored = False
    """Whether padding is left out before the output layer."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, width)
        self.bias = nn.Parameter(torch.zeros(V))
        self.dropout = nn.Dropout(dropout)

    def forward(self, src: Tensor, length: Tensor, begun: Tensor, targets: Tensor) -> Tensor:
        """Give the mean loss."""
        hidden, targets = self.hidden(src, length, begun).flatten(0, 1), targets.flatten()
        if self.scored:
            hidden, targets = hidden[targets >= 0], targets[targets >= 0]
        logits = F.linear(hidden, self.embedding.weight, self.bias)
        return F.cross_entropy(logits.float(), targets, ignore_index=-1)


class TorchTransformer(Peer):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(width, dropout)
        self.stacks = nn.Transformer(
            width, HEADS, LAYERS, LAYERS, 4 * width, dropout=dropout, batch_first=True
        )
        self.stacks.encoder.norm = self.stacks.decoder.norm = None  # as in the paper
        self.register_buffer("places", sinusoids(torch.arange(LONG), width))
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(LONG))

    def embedded(self, tokens: Tensor) -> Tensor:
        scale = self.embedding.embedding_dim**0.5
        return self.dropout(self.embedding(tokens) * scale + self.places[: tokens.shape[1]])

    def hidden(self, src: Tensor, length: Tensor, begun: Tensor) -> Tensor:
        padding = torch.arange(src.shape[1]) >= length[:, None]
        return self.stacks(
            self.embedded(src),
            self.embedded(begun),
            tgt_mask=self.causal,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )


class TorchAttention(Peer):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(width, dropout)
        self.encoder = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        self.asking = nn.LSTM(width, width, batch_first=True)
        self.keys = nn.Linear(width, width, bias=False)
        self.decoder = nn.LSTM(2 * width, width, batch_first=True)
        self.combine = nn.Linear(2 * width, width)

    def hidden(self, src: Tensor, length: Tensor, begun: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            self.dropout(self.embedding(src)), length, batch_first=True, enforce_sorted=False
        )
        values = self.dropout(
            pad_packed_sequence(self.encoder(packed)[0], batch_first=True, total_length=LONG)[0]
        )
        s = self.dropout(self.asking(self.dropout(self.embedding(begun)))[0])
        scores = s @ self.keys(values).transpose(1, 2)
        padding = torch.arange(src.shape[1]) >= length[:, None]
        weights = scores.masked_fill(padding[:, None], -torch.inf).softmax(dim=-1)
        context = weights @ values
        r = self.dropout(self.decoder(torch.cat([s, context], dim=-1))[0])
        return self.dropout(torch.tanh(self.combine(torch.cat([r, context], dim=-1))))


def peer_model(name: str, dropout: float) -> Any:
    torch.manual_seed(0)
    kind = TorchTransformer if name == "transformer" else TorchAttention
    model = kind(WIDTH[name], dropout)
    nn.init.normal_(model.embedding.weight, std=WIDTH[name] ** -0.5)
    return model


def our_model(name: str, dropout: float) -> Any:
    """Make ours, with the first weights of the peer."""
    theirs, width = peer_model(name, dropout), WIDTH[name]
    mine: Any
    if name == "transformer":
        shape = {"context_length": 64, "num_layers": LAYERS, "num_heads": HEADS}
        mine = Transformer(TransformerConfig(vocab_size=V, d_model=width, dropout=dropout, **shape))
        matched = transformer_weights(theirs, mine)
    else:
        mine = Seq2SeqAttention(
            Seq2SeqAttentionConfig(vocab_size=V, d_model=width, num_layers=1, dropout=dropout)
        )
        matched = attention_weights(theirs, mine)
    matched += [(theirs.embedding.weight, mine.vocabulary.embedding.weight)]
    with torch.no_grad():
        for a, b in matched:
            b.copy_(a)
    return mine


def both(a: Any, b: Any) -> list[tuple[Tensor, Tensor]]:
    return [(a.weight, b.weight), (a.bias, b.bias)]


def transformer_weights(theirs: Any, mine: Any) -> list[tuple[Tensor, Tensor]]:
    found: list[tuple[Tensor, Tensor]] = []
    d = WIDTH["transformer"]
    for name in ("encoder", "decoder"):
        layers = getattr(theirs.stacks, name).layers
        for a, b in zip(layers, getattr(mine, name), strict=True):
            found += both(a.self_attn.out_proj, b.attention.out)
            found += both(a.linear1, b.mlp.up) + both(a.linear2, b.mlp.down)
            found += [(a.self_attn.in_proj_weight, b.attention.qkv.weight)]
            found += [(a.self_attn.in_proj_bias, b.attention.qkv.bias)]
            if name == "decoder":
                cross = a.multihead_attn
                found += both(cross.out_proj, b.cross.out)
                found += [(cross.in_proj_weight[:d], b.cross.q.weight)]
                found += [(cross.in_proj_bias[:d], b.cross.q.bias)]
                found += [(cross.in_proj_weight[d:], b.cross.kv.weight)]
                found += [(cross.in_proj_bias[d:], b.cross.kv.bias)]
    return found


def attention_weights(theirs: Any, mine: Any) -> list[tuple[Tensor, Tensor]]:
    found = [(theirs.keys.weight, mine.attention.W), *both(theirs.combine, mine.combine)]
    cells = [
        (theirs.encoder, "_l0", mine.encoder.ahead[0]),
        (theirs.encoder, "_l0_reverse", mine.encoder.back[0]),
        (theirs.asking, "_l0", mine.asking),
        (theirs.decoder, "_l0", mine.layers[0]),
    ]
    for a, end, b in cells:
        found += [(getattr(a, f"weight_ih{end}"), b.U), (getattr(a, f"weight_hh{end}"), b.W)]
        found += [(getattr(a, f"bias_ih{end}") + getattr(a, f"bias_hh{end}"), b.b)]
    return found


def ours(spec: str, name: str, dropout: float) -> Callable[[Batch], float]:
    model = our_model(name, dropout)
    if "compile" in spec:
        compile_blocks(model)
    optimizer = Optimizer(model, TrainConfig(optimizer="adamw", weight_decay=0.1))
    kind = spec.rpartition("-")[2]

    def step(batch: Batch) -> float:
        src, length, begun, targets = batch
        with precision(kind):
            hidden, _ = model(begun, model.encode(src, length))
            total = cross_entropy_sum(model.head, hidden, targets, V)
            loss = total / (targets != -1).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(1e-3, 0.0)
        model.zero_grad()
        return loss.item()

    return step


def peer(spec: str, name: str, dropout: float) -> Callable[[Batch], float]:
    model = peer_model(name, dropout)
    model.scored = "scored" in spec
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    call = torch.compile(model) if "compile" in spec else model

    def step(batch: Batch) -> float:
        bf16 = "bf16" in spec
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = call(*batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=tuple(WIDTH), default="transformer")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--specs", default="")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--worker", default="")
    args = parser.parse_args()
    if args.worker:
        make = ours if args.worker.startswith("ours") else peer
        serve(make(args.worker, args.model, args.dropout), batches())
        return
    specs = "peer-fp32,peer-bf16,peer-scored-bf16,peer-compile-fp32,peer-compile-bf16"
    specs += ",ours-fp32,ours-bf16"
    if args.model == "transformer":
        specs += ",ours-compile-bf16"
    model = our_model(args.model, 0.0)
    compare(
        __file__,
        ["--model", args.model, "--dropout", str(args.dropout)],
        (args.specs or specs).split(","),
        args.rounds,
        args.steps,
        float(model.train_flops(ROWS, LONG, LONG)),
    )


if __name__ == "__main__":
    main()
