"""Optimisers: AdamW, and Muon for the matrices inside the network.

Both are given by one `Optimizer`, whose state is a flat dictionary of tensors by parameter name:
that is what a checkpoint holds.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ensue.distributed.shard import blocks
from ensue.nn.linear import SideBySide
from ensue.training.config import TrainConfig


class Optimizer:
    """Muon for hidden matrices, AdamW for embeddings, the output layer, gains and biases.

    Args:
        model: Whose parameters are moved; a tied parameter is moved once.
        config: Which optimiser, and its constants.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.config = config
        matrices: dict[str, nn.Parameter] = {}
        if config.optimizer == "sgd":
            tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
            matrices = {n: p for n, p in model.named_parameters() if any(p is t for t in tables)}
        elif config.optimizer != "adamw":
            matrices = dict(hidden_matrices(model))
        rest = {n: p for n, p in model.named_parameters() if n not in matrices}
        if config.optimizer == "sgd":
            self.matrices = Momentum(matrices, config.momentum)
        else:
            self.matrices = Muon(matrices, config.momentum, config.weight_decay)
        self.names = {id(p): n for n, p in rest.items()}
        shares = layer_shares(model, config.layer_decay)
        self.matrices.shares = shares
        alike: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
        for name, p in rest.items():
            alike[shares[name], p.ndim >= 2].append(p)
        groups: list[dict[str, Any]] = [
            {"params": found, "share": share} | ({} if is_matrix else {"weight_decay": 0.0})
            for (share, is_matrix), found in alike.items()
        ]
        self.adamw = torch.optim.AdamW(
            groups,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        for p in rest.values():  # made now, not at the first step, so that a checkpoint can load
            self.adamw.state[p] = {
                "step": torch.zeros((), device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }

    def step(self, lr: float, matrix_lr: float) -> None:
        """Move every parameter by its gradient: matrices at the second rate, others by AdamW."""
        for group in self.adamw.param_groups:
            group["lr"] = lr * group["share"]
        self.adamw.step()
        self.matrices.step(matrix_lr)

    def tensors(self) -> dict[str, Tensor]:
        """Give the whole state by name, for a checkpoint to save and to load in place."""
        state = {f"{name}.momentum": m for name, m in self.matrices.momentum.items()}
        for p, values in self.adamw.state.items():
            state |= {f"{self.names[id(p)]}.{key}": t for key, t in values.items()}
        return state


class Momentum:
    """Gradient descent with momentum: what is seen seldom moves seldom, and so little.

    AdamW moves every weight equally far, however seldom it is seen: in a table of n-grams the
    commonest of all texts then count as much as what tells them apart.
    """

    def __init__(
        self, matrices: dict[str, nn.Parameter], momentum: float, weight_decay: float = 0.0
    ) -> None:
        self.matrices = matrices
        self.momentum = {name: torch.zeros_like(p) for name, p in matrices.items()}
        self.beta = momentum
        self.weight_decay = weight_decay
        self.shares = dict.fromkeys(matrices, 1.0)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every matrix by the mean of its last gradients."""
        for name, p in self.matrices.items():
            if p.grad is not None:
                rate = lr * self.shares[name]
                self.momentum[name].lerp_(p.grad, 1 - self.beta)
                p.mul_(1 - rate * self.weight_decay).add_(self.momentum[name], alpha=-rate)


class Muon(Momentum):
    """Momentum, orthogonalised: every direction of a weight matrix moves equally far.

    A matrix whose one side is a multiple of the other is taken as that many squares (the three of
    q, k, v; the four gates of an LSTM; the four slices of an MLP's layer), so that all of a model's
    matrices go through one batched product.

    An update of a matrix has the spectral norm lr sqrt(max(1, rows / columns)), which lets one rate
    serve all widths.

    Reference: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every matrix by its orthogonalised momentum (Nesterov's form)."""
        alike: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor, float]]] = defaultdict(list)
        for name, p in self.matrices.items():
            if p.grad is None:
                continue
            momentum = self.momentum[name]
            momentum.lerp_(p.grad, 1 - self.beta)
            update = p.grad.lerp(momentum, self.beta)
            whole = update.full_tensor() if isinstance(update, DTensor) else update
            blocks = _squares(whole)
            alike[tuple(blocks.shape[1:])].append((p, blocks, lr * self.shares[name]))
        for members in alike.values():
            turned = orthogonalise(torch.cat([blocks for _, blocks, _ in members]))
            sizes = [len(blocks) for _, blocks, _ in members]
            for (p, _, rate), blocks in zip(members, turned.split(sizes), strict=True):
                p.mul_(1 - rate * self.weight_decay)
                # k squares beside or above each other have together a norm of sqrt(k).
                rows, columns = p.shape
                factor = (max(1.0, rows / columns) / len(blocks)) ** 0.5
                p.add_(_like(_unsquares(blocks, p.shape), p), alpha=-rate * factor)


def usual_rates(
    train: TrainConfig, factor: float = 1.0, optimizer: str = "muon", rest: float = 1.0
) -> TrainConfig:
    """Set the optimiser and the learning rates that a config leaves open.

    Args:
        train: Rates of zero are open, and the optimiser ``auto``.
        factor: On the usual rates of the optimiser, which GPT-2 learns best at.
        optimizer: What ``auto`` means; of another one the factors say nothing.
        rest: Further factor, on the rate of what Muon does not move.
    """
    if train.optimizer not in ("auto", optimizer):
        factor = rest = 1.0
    train = replace(train, optimizer=optimizer if train.optimizer == "auto" else train.optimizer)
    if train.optimizer == "adamw":
        return replace(train, lr=train.lr or factor * 3e-3)
    if train.optimizer == "sgd":
        return replace(train, lr=train.lr or 3e-3, matrix_lr=train.matrix_lr or factor * 10.0)
    lr, matrix_lr = factor * rest * 0.015, factor * 0.02
    return replace(train, lr=train.lr or lr, matrix_lr=train.matrix_lr or matrix_lr)


def layer_shares(model: nn.Module, decay: float) -> dict[str, float]:
    """Give each parameter's share of the learning rate: 1 at the top, less with each layer below.

    What comes before the layers (embeddings) is one below the first of them, what comes after them
    the top. Reference: Howard & Ruder 2018, arXiv:1801.06146, section 3.2.
    """
    names = [name for name, _ in model.named_parameters()]
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    stacks = [(n, 1 if isinstance(m, SideBySide) else len(m)) for n, m in lists]
    shares, behind = {}, False
    for name in names:
        within = next((s for s in stacks if name.startswith(f"{s[0]}.")), None)
        behind = behind or within is not None
        depth = 0 if behind else max((count for _, count in stacks), default=0) + 1
        if within is not None:
            stack, count = within
            depth = max(1, count - int(name.removeprefix(f"{stack}.").split(".")[0]))
        shares[name] = decay**depth
    return shares


def hidden_matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name the weight matrices that lie inside: neither embeddings nor an output layer.

    An output layer has a side as long as the vocabulary, or as there are classes; by chance, one of
    a block may too (four gates of 128 and a vocabulary of 512).
    """
    outer = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    inner = {id(p) for block in blocks(model) for p in block.parameters()}
    outputs = getattr(model, "vocab_size", getattr(model, "classes", -1))
    for name, p in model.named_parameters():
        is_inside = id(p) in inner or outputs not in p.shape
        if p.ndim == 2 and id(p) not in outer and is_inside:
            yield name, p


def orthogonalise(g: Float[Tensor, "N R C"], iterations: int = 5) -> Float[Tensor, "N R C"]:
    """Bring the singular values of each matrix near 1, by a Newton-Schulz iteration of degree 5.

    R <= C. In bf16: the iteration only has to land between about 0.7 and 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.to(torch.bfloat16)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(g.dtype)


def _squares(m: Float[Tensor, "R C"]) -> Float[Tensor, "N A B"]:
    """Cut a matrix into squares, where its sides allow, or turn it so that rows <= columns."""
    rows, columns = m.shape
    if rows % columns == 0:
        return m.unflatten(0, (-1, columns))
    if columns % rows == 0:
        return m.unflatten(1, (-1, rows)).transpose(0, 1)
    return (m if rows < columns else m.mT)[None]


def _unsquares(blocks: Float[Tensor, "N A B"], shape: torch.Size) -> Float[Tensor, "R C"]:
    """Undo `_squares`."""
    rows, columns = shape
    if rows % columns == 0:
        return blocks.flatten(0, 1)
    if columns % rows == 0:
        return blocks.transpose(0, 1).flatten(1)
    return blocks[0] if rows < columns else blocks[0].mT


def _like(whole: Tensor, p: Tensor) -> Tensor:
    return (
        distribute_tensor(whole, p.device_mesh, p.placements) if isinstance(p, DTensor) else whole
    )
