"""Recurrence over a sequence: the equations, step by step, and the same over all steps at once."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ensue.nn.capture import is_captured, tap
from ensue.nn.dropout import Dropout
from ensue.nn.linear import linear
from ensue.nn.precision import product_dtype


class RNNWeights(NamedTuple):
    """One simple recurrent layer's weights, by the lecture's letters."""

    U: Float[Tensor, "D X"]
    W: Float[Tensor, "D D"]
    b: Float[Tensor, " D"]


def rnn_step(
    x: Float[Tensor, "B X"], h: Float[Tensor, "B D"], w: RNNWeights
) -> Float[Tensor, "B D"]:
    """One step of the cell: h' = tanh(U x + W h + b). Reference: Elman 1990."""
    return torch.tanh(x @ w.U.T + h @ w.W.T + w.b)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def rnn_sequence(
    x: Float[Tensor, "B T X"], h: Float[Tensor, "B D"], w: RNNWeights
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"]]:
    """Run the cell over T steps at once; equal to T times `rnn_step`.

    Returns:
        What the cell says at each step, and the last h.
    """
    inputs = linear(x.transpose(0, 1).contiguous(), w.U, w.b)  # all steps in one product
    said: Tensor = _SimpleSequence.apply(inputs, w.W, h)  # type: ignore[no-untyped-call]
    return said.transpose(0, 1), said[-1].to(h.dtype)


class _SimpleSequence(torch.autograd.Function):
    """The recurrent half of an RNN, with one weight-gradient product at the end.

    Autograd over a loop, and torch's own module, make a graph and a weight gradient for each step.
    Products are in the dtype of the inputs; the gradient is carried back in fp32.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, h: Tensor) -> Tensor:
        w = weight.to(inputs.dtype)
        hs = inputs.new_empty(len(inputs) + 1, *h.shape)
        hs[0] = h
        for t in range(len(inputs)):
            torch.addmm(inputs[t], hs[t], w.t(), out=hs[t + 1]).tanh_()
        ctx.save_for_backward(w, hs)
        ctx.dtypes = weight.dtype, h.dtype
        return hs[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_said: Tensor) -> tuple[Tensor, ...]:
        w, hs = ctx.saved_tensors
        dz = hs.new_empty(d_said.shape)
        dh = torch.zeros(hs.shape[1:], dtype=torch.float32, device=hs.device)
        for t in reversed(range(len(d_said))):
            dh.add_(d_said[t])
            torch.ops.aten.tanh_backward.grad_input(dh.to(w.dtype), hs[t + 1], grad_input=dz[t])
            dh.copy_(dz[t] @ w)
        dw = (dz.flatten(0, 1).t() @ hs[:-1].flatten(0, 1)).to(ctx.dtypes[0])
        return dz, dw, dh.to(ctx.dtypes[1])


class LSTMWeights(NamedTuple):
    """One layer's weights; the four gates i, f, g, o lie side by side in the rows."""

    U: Float[Tensor, "4D X"]
    W: Float[Tensor, "4D D"]
    b: Float[Tensor, " 4D"]


def lstm_step(
    x: Float[Tensor, "B X"], h: Float[Tensor, "B D"], c: Float[Tensor, "B D"], w: LSTMWeights
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    """One step of the cell, as the equations say.

        i = s(U_i x + W_i h + b_i)    what to write
        f = s(U_f x + W_f h + b_f)    what to keep
        g = tanh(U_g x + W_g h + b_g) what would be written
        o = s(U_o x + W_o h + b_o)    what to say
        c' = f c + i g
        h' = o tanh(c')

    Reference: Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000, eq. 3.
    """
    i, f, g, o = (x @ w.U.T + h @ w.W.T + w.b).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


NEVER = 1e4
"""Far enough from zero for a gate to be 0 or 1 to the last bit, whatever the rest of its sum is."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def lstm_sequence(
    x: Float[Tensor, "B T X"],
    h: Float[Tensor, "B D"],
    c: Float[Tensor, "B D"],
    w: LSTMWeights,
    length: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    """Run the cell over T steps at once; equal to T times `lstm_step`.

    In fp32 through torch's fused kernel; in bf16 through `_Sequence`, whose cell stays fp32.

    Args:
        x: The input.
        h: What the cell said last.
        c: What it remembers.
        w: Its weights.
        length: How many steps of each row count, at least 1; None: all.

    Returns:
        What the cell says at each step (zeros where a row has ended), and h and c of each row's
        last step that counts.
    """
    if length is None and product_dtype() == torch.float32:
        # torch keeps two biases, the cell needs one
        params = [w.U, w.W, w.b, torch.zeros_like(w.b)]
        y, h_last, c_last = torch.lstm(
            x, (h[None], c[None]), params, True, 1, 0.0, torch.is_grad_enabled(), False, True
        )
        return y, h_last[0], c_last[0]
    gates = linear(x.transpose(0, 1).contiguous(), w.U, w.b)  # all steps in one product
    if length is None:
        said, c_last = _Sequence.apply(gates, w.W, h, c)  # type: ignore[no-untyped-call]
        return said.transpose(0, 1), said[-1].to(h.dtype), c_last
    ended = torch.arange(len(gates), device=x.device)[:, None, None] >= length[:, None]  # (T, B, 1)
    # A step after the end writes nothing (i = 0) and keeps all (f = 1), so that c stays.
    held = gates.new_tensor([-NEVER, NEVER, 0.0, 0.0]).repeat_interleave(h.shape[1])
    gates = torch.where(ended, held, gates)
    said, c_last = _Sequence.apply(gates, w.W, h, c)  # type: ignore[no-untyped-call]
    said = said.masked_fill(ended, 0.0).transpose(0, 1)
    return said, last_steps(said, length).to(h.dtype), c_last


def last_steps(x: Float[Tensor, "B T D"], length: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
    """Give what stands at the last step that counts of each row."""
    return x[torch.arange(len(x), device=x.device), length - 1]


def reversed_rows(x: Shaped[Tensor, "B T D"], length: Int[Tensor, " B"]) -> Shaped[Tensor, "B T D"]:
    """Reverse the steps that count of each row; what follows them stays where it is."""
    steps = torch.arange(x.shape[1], device=x.device)
    place = torch.where(steps < length[:, None], length[:, None] - 1 - steps, steps)  # (B, T)
    return x.gather(1, place[..., None].expand_as(x))


class _Sequence(torch.autograd.Function):
    """The recurrent half of an LSTM, with one weight-gradient product at the end.

    Autograd over a loop makes a graph and a weight gradient for each step; torch's own kernel does
    the same under bf16 autocast. Products are in the dtype of the gates, the cell in that of c.
    """

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor]:
        w, d, steps = weight.to(gates.dtype), h.shape[-1], len(gates)
        hs = gates.new_empty(steps + 1, *h.shape)
        cs = c.new_empty(steps + 1, *c.shape)
        acts = c.new_empty(gates.shape)
        tanh_c = c.new_empty(steps, *c.shape)
        hs[0], cs[0] = h, c
        total = gates.new_empty(gates.shape[1:])
        for t in range(steps):
            act = acts[t].copy_(torch.addmm(gates[t], hs[t], w.t(), out=total))
            act[:, : 2 * d].sigmoid_()
            act[:, 2 * d : 3 * d].tanh_()
            act[:, 3 * d :].sigmoid_()
            i, f, g, o = act.chunk(4, dim=-1)
            torch.mul(f, cs[t], out=cs[t + 1]).addcmul_(i, g)
            torch.tanh(cs[t + 1], out=tanh_c[t])
            hs[t + 1].copy_(o * tanh_c[t])
        ctx.save_for_backward(w, hs, cs, acts, tanh_c)
        ctx.dtypes = weight.dtype, h.dtype
        return hs[1:], cs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_said: Tensor, dc: Tensor) -> tuple[Tensor, ...]:
        w, hs, cs, acts, tanh_c = ctx.saved_tensors
        dz = acts.new_empty(acts.shape, dtype=w.dtype)
        sigmoid, tanh = (
            torch.ops.aten.sigmoid_backward.grad_input,
            torch.ops.aten.tanh_backward.grad_input,
        )
        step = acts.new_empty(acts.shape[1:])  # one step's, in the cache, before it is rounded
        d_i, d_f, d_g, d_o = step.chunk(4, dim=-1)
        dc, dh = dc.clone(), torch.zeros_like(dc)
        for t in reversed(range(len(acts))):
            i, f, g, o = acts[t].chunk(4, dim=-1)
            dh.add_(d_said[t])
            dc.add_(torch.ops.aten.tanh_backward(dh * o, tanh_c[t]))
            sigmoid(dc * g, i, grad_input=d_i)
            sigmoid(dc * cs[t], f, grad_input=d_f)
            tanh(dc * i, g, grad_input=d_g)
            sigmoid(dh * tanh_c[t], o, grad_input=d_o)
            dc.mul_(f)
            dh.copy_(dz[t].copy_(step) @ w)
        dw = (dz.flatten(0, 1).t() @ hs[:-1].flatten(0, 1)).to(ctx.dtypes[0])
        return dz, dw, dh.to(ctx.dtypes[1]), dc


class LSTMLayer(nn.Module):
    """The cell's weights, and the cell over a sequence."""

    def __init__(self, d_input: int, d_model: int) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.empty(4 * d_model, d_input))
        self.W = nn.Parameter(torch.empty(4 * d_model, d_model))
        self.b = nn.Parameter(torch.empty(4 * d_model))

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise uniformly within 1/sqrt(D); the forget gate starts open.

        Reference: forget bias 1: Jozefowicz et al. 2015, section 5.
        """
        bound = self.W.shape[1] ** -0.5
        nn.init.uniform_(self.U, -bound, bound)
        nn.init.uniform_(self.W, -bound, bound)
        self.b.zero_()
        self.b.chunk(4)[1].fill_(1.0)

    def forward(
        self,
        x: Float[Tensor, "B T X"],
        h: Float[Tensor, "B D"],
        c: Float[Tensor, "B D"],
        length: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Read T steps, or the first `length` of each row; see `lstm_sequence`.

        Step by step, showing the gates, when somebody looks at rows of one length.
        """
        w = LSTMWeights(self.U, self.W, self.b)
        if not is_captured(self) or (length is not None and bool((length < x.shape[1]).any())):
            return lstm_sequence(x, h, c, w, length)
        gates, cs, said = [], [], []
        for x_t in x.unbind(dim=1):
            opened = torch.sigmoid(x_t @ w.U.T + h @ w.W.T + w.b)
            gates.append(opened.unflatten(-1, (4, -1))[:, [0, 1, 3]])  # i, f, o
            h, c = lstm_step(x_t, h, c, w)
            cs.append(c)
            said.append(h)
        tap(self, "gates", torch.stack(gates, dim=1))
        tap(self, "c", torch.stack(cs, dim=1))
        return torch.stack(said, dim=1), h, c


class BidirectionalLSTM(nn.Module):
    """Layers that each read a row in both directions, half of the width each way.

    What `back` shows to a tap stands in the order in which it reads: from the row's end.

    Args:
        d_model: Width of the input, and of both directions together; even.
        num_layers: Layers.
        dropout: Dropped in training from what each layer says.

    Reference: Schuster & Paliwal 1997, doi:10.1109/78.650093.
    """

    def __init__(self, d_model: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        half = d_model // 2
        self.ahead = nn.ModuleList(LSTMLayer(d_model, half) for _ in range(num_layers))
        self.back = nn.ModuleList(LSTMLayer(d_model, half) for _ in range(num_layers))
        self.dropout = Dropout(dropout)

    def init_weights(self) -> None:
        """Initialise all cells."""
        for layer in (*self.ahead, *self.back):
            layer.init_weights()

    def forward(
        self, x: Float[Tensor, "B S D"], length: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B D"]]:
        """Read whole rows.

        Returns:
            What the last layer says at each place (zeros after the end), and what its two
            directions say when each has read the whole row.
        """
        zeros = x.new_zeros(len(x), x.shape[2] // 2)
        ends = zeros
        for ahead, back in zip(self.ahead, self.back, strict=True):
            there, there_end, _ = ahead(x, zeros, zeros, length)
            again, again_end, _ = back(reversed_rows(x, length), zeros, zeros, length)
            x = self.dropout(torch.cat([there, reversed_rows(again, length)], dim=-1))
            ends = torch.cat([there_end, again_end], dim=-1)
        return x, ends
