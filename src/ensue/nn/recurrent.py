"""Recurrence over a sequence: the equations, step by step, and the same in one fused call."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


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


def lstm_sequence(
    x: Float[Tensor, "B T X"], h: Float[Tensor, "B D"], c: Float[Tensor, "B D"], w: LSTMWeights
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    """Run the cell over T steps through torch's fused kernel; equal to T times `lstm_step`.

    Returns:
        What the cell says at each step, and the last h and c.
    """
    params = [w.U, w.W, w.b, torch.zeros_like(w.b)]  # torch keeps two biases, the cell needs one
    y, h_last, c_last = torch.lstm(
        x, (h[None], c[None]), params, True, 1, 0.0, torch.is_grad_enabled(), False, True
    )
    return y, h_last[0], c_last[0]
