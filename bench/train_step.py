"""One training step beside its peers: nanoGPT's model file; torch.nn's LSTM, RNN and Conv1d.

    python bench/train_step.py --shape 4x128x64x12 --nanogpt PATH_OF_NANOGPT
    python bench/train_step.py --shape 6x384x256x12 --nanogpt PATH_OF_NANOGPT --rounds 40 --steps 5
    python bench/train_step.py --shape lstm      (or rnn, cnn)

A shape is layers x width x context x rows; the other three are of width 512, 128 rows of 32: one
layer of the recurrent ones, two gated convolutions of 3 taps.
Same first weights, batches, and AdamW with clipping; dropout 0. nanoGPT's files are only imported.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from workers import compare, serve

from ensue.distributed.shard import compile_blocks
from ensue.models.cnn import CNN, CNNConfig
from ensue.models.gpt2 import GPT2, GPT2Config
from ensue.models.lstm import LSTM, LSTMConfig
from ensue.models.rnn import RNN, RNNConfig
from ensue.nn.loss import cross_entropy_sum
from ensue.nn.precision import precision
from ensue.training.config import TrainConfig
from ensue.training.optim import Optimizer

V = 65
NAMED = {"lstm": (1, 512, 32, 128), "rnn": (1, 512, 32, 128), "cnn": (2, 512, 32, 128)}


def shape_of(text: str) -> tuple[int, int, int, int]:
    if text in NAMED:
        return NAMED[text]
    layers, width, context, rows = map(int, text.split("x"))
    return layers, width, context, rows


def heads_of(width: int) -> int:
    return 6 if width == 384 else 4


def batches(context: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Give rows of a made-up text whose entropy is ln 6 = 1.79 nats a token."""
    generator = torch.Generator().manual_seed(1)
    text = torch.cumsum(torch.randint(1, 7, (1_000_000,), generator=generator), 0) % V
    while True:
        starts = torch.randint(len(text) - context - 1, (rows,), generator=generator).tolist()
        yield (
            torch.stack([text[i : i + context] for i in starts]),
            torch.stack([text[i + 1 : i + 1 + context] for i in starts]),
        )


def copy_weights(theirs: nn.Module, ours: nn.Module) -> None:
    """Begin where nanoGPT begins: its names in ours' order, both of (out, in) layers."""
    order = ("transformer.wte.weight", "transformer.wpe.weight")
    given = {n: p for n, p in theirs.named_parameters() if n != "lm_head.weight"}
    rest = [n for n in given if n not in order]
    with torch.no_grad():
        for name, p in zip([*order, *rest], ours.parameters(), strict=True):
            p.copy_(given[name])


def copy_torch(theirs: "TorchModel", ours: Any) -> None:
    """Begin where torch's modules begin; the two biases of a recurrent one are one here."""
    assert ours.vocabulary.output is not None
    with torch.no_grad():
        ours.vocabulary.embedding.weight.copy_(theirs.embedding.weight)
        ours.vocabulary.output.copy_(theirs.output.weight)
        ours.vocabulary.bias.copy_(theirs.output.bias)
        if isinstance(theirs, TorchCNN):
            for block, conv in zip(ours.blocks, theirs.convs, strict=True):
                block.conv.weight.copy_(conv.weight.transpose(1, 2).flatten(1))
                block.conv.bias.copy_(conv.bias)
            return
        source = theirs.layer
        for name, p in ours.layers[0].named_parameters():
            one = {"U": source.weight_ih_l0, "W": source.weight_hh_l0}
            p.copy_(one.get(name, source.bias_ih_l0 + source.bias_hh_l0))


def torch_model(shape: str) -> "TorchModel":
    torch.manual_seed(0)
    return {"lstm": TorchLSTM, "rnn": TorchRNN, "cnn": TorchCNN}[shape](shape_of(shape)[1])


def our_model(shape: str) -> nn.Module:
    layers, width, context, _ = shape_of(shape)
    config = {"lstm": LSTMConfig, "rnn": RNNConfig, "cnn": CNNConfig}[shape]
    model = {"lstm": LSTM, "rnn": RNN, "cnn": CNN}[shape]
    return model(
        config(
            vocab_size=V,
            context_length=context,
            d_model=width,
            num_layers=layers,
            dropout=0.0,
            untie_embeddings=True,
            **({"kernel_size": 3} if shape == "cnn" else {}),
        )
    )


def ours(spec: str, shape: str, nanogpt: str) -> Callable[[Any], float]:
    layers, width, context, _ = shape_of(shape)
    torch.manual_seed(0)
    model: nn.Module
    if shape in NAMED:
        model = our_model(shape)
        copy_torch(torch_model(shape), model)
    else:
        model = GPT2(
            GPT2Config(
                vocab_size=V,
                context_length=context,
                d_model=width,
                num_layers=layers,
                num_heads=heads_of(width),
                dropout=0.0,
            )
        )
        copy_weights(nanogpt_model(shape, nanogpt), model)
    if "compile" in spec:
        compile_blocks(model)
    optimizer = Optimizer(model, TrainConfig(optimizer="adamw", weight_decay=0.1))
    kind = spec.rpartition("-")[2]

    def step(batch: Any) -> float:
        inputs, targets = batch
        with precision(kind):
            hidden, _ = model(inputs)
            loss = cross_entropy_sum(model.head, hidden, targets, V) / targets.numel()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(1e-3, 0.0)
        model.zero_grad()
        return loss.item()

    return step


def nanogpt_model(shape: str, nanogpt: str) -> Any:
    layers, width, context, _ = shape_of(shape)
    sys.path.insert(0, nanogpt)
    from model import GPT, GPTConfig

    torch.manual_seed(0)
    config = GPTConfig(
        block_size=context,
        vocab_size=V,
        n_layer=layers,
        n_head=heads_of(width),
        n_embd=width,
        dropout=0.0,
        bias=True,
    )
    with contextlib.redirect_stdout(sys.stderr):
        return GPT(config)


class TorchModel(nn.Module):
    """A peer: torch's own module between embedding and output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, width)
        self.output = nn.Linear(width, V)

    def hidden(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[None, Tensor]:
        """Give the loss where nanoGPT gives it."""
        logits = self.output(self.hidden(self.embedding(inputs)))
        return None, nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class TorchLSTM(TorchModel):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.layer = nn.LSTM(width, width, batch_first=True)


class TorchRNN(TorchModel):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.layer = nn.RNN(width, width, batch_first=True)


class TorchCNN(TorchModel):
    """The same gated, dilated, causal convolutions, through nn.Conv1d."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.convs = nn.ModuleList(nn.Conv1d(width, 2 * width, 3, dilation=2**i) for i in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def hidden(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms[:-1], self.convs, strict=True):
            places = nn.functional.pad(norm(x).transpose(1, 2), (2 * conv.dilation[0], 0))
            x = x + nn.functional.glu(conv(places), dim=1).transpose(1, 2)
        return self.norms[2](x)


def peer(spec: str, shape: str, nanogpt: str) -> Callable[[Any], float]:
    model: Any
    if shape in NAMED:
        model = torch_model(shape)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    else:
        model = nanogpt_model(shape, nanogpt)
        with contextlib.redirect_stdout(sys.stderr):
            optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    call = torch.compile(model) if "compile" in spec else model
    bf16 = "bf16" in spec

    def step(batch: Any) -> float:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = call(*batch)[1]
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def flops_of(shape: str) -> float:
    layers, width, context, rows = shape_of(shape)
    weights = {"lstm": 8, "rnn": 2, "cnn": 6}.get(shape, 12) * layers * width**2 + V * width
    attention = 0 if shape in NAMED else 12 * layers * width * context
    return float(rows * context * (6 * weights + attention))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="4x128x64x12")
    parser.add_argument("--nanogpt", default="", help="folder of a nanoGPT checkout")
    parser.add_argument("--specs", default="")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--worker", default="")
    args = parser.parse_args()
    if args.worker:
        _, _, context, rows = shape_of(args.shape)
        make = (
            ours(args.worker, args.shape, args.nanogpt)
            if args.worker.startswith("ours")
            else peer(args.worker, args.shape, args.nanogpt)
        )
        serve(make, batches(context, rows))
        return
    specs = "peer-fp32,peer-bf16,peer-compile-fp32,peer-compile-bf16,ours-fp32,ours-bf16"
    specs += ",ours-compile-bf16"
    if args.shape in NAMED:
        specs = "peer-fp32,peer-bf16,ours-fp32,ours-bf16"
    if args.shape == "cnn":
        specs += ",peer-compile-bf16"
    compare(
        __file__,
        ["--shape", args.shape, "--nanogpt", args.nanogpt],
        (args.specs or specs).split(","),
        args.rounds,
        args.steps,
        flops_of(args.shape),
    )


if __name__ == "__main__":
    main()
