"""What a training run is: the only schema of recipes, flags and ``config.toml``."""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ensue.config import from_dict, to_dict
from ensue.errors import UsageError, nearest
from ensue.models import find_step, step_of, steps_for
from ensue.tasks import find_kind

M = TypeVar("M")

SCHEDULES = ("linear", "cosine", "inverse_sqrt", "constant")
SIZES = ("", "xs", "s", "m", "l")
DEFAULT_MODEL = find_kind("lm").model


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the weights are found. A zero means: chosen by ensue and written into the plan."""

    lr: float = 0.0
    """Peak learning rate of AdamW: with muon of embeddings, gains and biases."""
    matrix_lr: float = 0.0
    """Peak learning rate of hidden matrices (muon: the spectral norm of one update), or of tables
    (sgd)."""
    optimizer: str = "auto"
    """muon (orthogonalised updates for hidden matrices, AdamW for the rest), adamw, sgd (momentum
    for tables of vectors, without decay, AdamW for the rest), or auto: what suits the model."""
    global_batch_size: int = 0
    """Rows in one update, over all micro-batches and processes."""
    micro_batch_size: int = 0
    """Rows computed at a time by one process; fewer need less memory and change no result."""
    batch_tokens: int = 0
    """Tokens of an update on either side, padding included, where rows differ in length (pairs)."""
    label_smoothing: float = 0.0
    """Share of a target's probability that is spread over all others while training (pairs,
    labels)."""
    word_dropout: float = 0.0
    """Share of words, of both sides, that the model is not shown while training (pairs, texts)."""
    adversarial: float = -1.0
    """Learn too with words moved where that harms most, by so many lengths of a vector (texts that
    are classified); 0: as they are alone; -1: as is usual for task and model."""
    class_weights: float = 0.0
    """Rare classes count more while training (labels): 0: every example alike; 1: every class."""
    schedule: str = "linear"
    """After the warm-up: linear or cosine (to zero), inverse_sqrt, or constant (no decay)."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises from zero."""
    layer_decay: float = 1.0
    """Each layer learns at so much of the rate of the one above it, for a model that begins with
    weights which know something (--from); above 0; 1: all alike."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices, as a share of the learning rate."""
    beta1: float = 0.9
    """AdamW's memory of the gradient."""
    beta2: float = 0.95
    """AdamW's memory of its square."""
    momentum: float = 0.95
    """Muon's memory of the gradient."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0: no clipping."""
    average: float = -1.0
    """Decay of averaged weights, which are kept where they score better on valid; 0: none; -1: as
    is usual for the task, of labels a mean over about the last tenth of the updates."""
    eval_every: int = 0
    """Updates between evaluations on the validation split."""
    eval_tokens: int = 0
    """Tokens of the validation split in those evaluations."""
    final_eval_tokens: int = 0
    """Tokens of it in the last one; 0: all that an eighth of the training's tokens allows."""
    keep_by: str = "auto"
    """What the kept weights are the best by, of the validation set at each evaluation: loss; bleu,
    of pairs translated greedily; accuracy, of labels; auto: accuracy of labels, else the loss."""
    patience: int = 0
    """Stop after so many evaluations without a better one; 0: never."""
    precision: str = "auto"
    """fp32, bf16 (matrix products and activations), or auto: the faster of them here."""
    threads: int = 0
    """Processor threads; 0: the fastest number, measured."""
    compile: str = "auto"
    """yes, no, or auto: compile the blocks where it pays back within the budget."""
    shard: str = "ddp"
    """With several processes: ddp (each has all weights) or fsdp (each has a part)."""

    def __post_init__(self) -> None:
        _one_of("train.optimizer", self.optimizer, ("auto", "muon", "adamw", "sgd"))
        _one_of("train.schedule", self.schedule, SCHEDULES)
        _one_of("train.keep_by", self.keep_by, ("auto", "loss", "bleu", "accuracy"))
        _one_of("train.precision", self.precision, ("auto", "fp32", "bf16"))
        _one_of("train.compile", self.compile, ("auto", "yes", "no"))
        _one_of("train.shard", self.shard, ("ddp", "fsdp"))
        for name in (
            "lr",
            "matrix_lr",
            "weight_decay",
            "grad_clip",
            "class_weights",
            "warmup_steps",
            "batch_tokens",
            "eval_every",
            "eval_tokens",
            "final_eval_tokens",
            "patience",
            "threads",
        ):
            if getattr(self, name) < 0:
                raise UsageError(f"train.{name} is {getattr(self, name)}: it must not be negative")
        for name in ("beta1", "beta2", "momentum", "label_smoothing", "word_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"train.{name} is {getattr(self, name)}: it lies in [0, 1)")
        if self.average != -1 and not 0 <= self.average < 1:
            raise UsageError(
                f"train.average is {self.average}: it lies in [0, 1), or is -1: as is usual"
            )
        if not 0 < self.layer_decay <= 1:
            raise UsageError(f"train.layer_decay is {self.layer_decay}: it lies in (0, 1]")
        micro, rows = self.micro_batch_size, self.global_batch_size
        if micro < 0 or rows < 0 or (micro and rows % micro):
            raise UsageError(
                f"train.global_batch_size {rows} is not a multiple of"
                f" train.micro_batch_size {micro}"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig(Generic[M]):
    """One training run: data, model, and how long."""

    task: str = "lm"
    """What is learnt: lm (to continue text), mlm (to fill in masked words), translate (to write one
    sequence, given another), chat (to answer), classify (to name the class of a text) or pictures
    (to name what they show)."""
    data: Any
    """What is read; its class is the task's."""
    model: M
    """Shape of the model."""
    start: str = ""
    """Begin with the weights of this run, with its shape and tokenizer: of the same model, on other
    data or for another task; bert learns to fill in first, then from labels."""
    size: str = ""
    """xs, s, m or l: one dial for the model's shape; empty: chosen for the budget."""
    budget: str = ""
    """Time (90s, 3min, 1h30min) or work (2e15flop); default 3min unless --steps is given."""
    steps: int = 0
    """Updates, instead of a budget."""
    seed: int = 0
    """Of the first weights, the order of the data, and dropout."""
    checkpoint_every: int = 0
    """Updates between checkpoints; 0: about every 30 seconds."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How the weights are found."""

    def __post_init__(self) -> None:
        find_kind(self.task)
        step = step_of(self.model)
        if self.task not in step.tasks:
            able = [s.name for s in steps_for(self.task)]
            raise UsageError(
                f"{step.title} cannot learn the task {self.task!r}", f"Models: {', '.join(able)}"
            )
        known = find_kind(self.task).kept_by
        if self.train.adversarial > 0 and not find_kind(self.task).adversarial:
            raise UsageError(
                f"train.adversarial means nothing to the task {self.task!r}",
                "Leave out --train.adversarial.",
            )
        if self.train.keep_by not in ("auto", "loss", *known):
            raise UsageError(
                f"the task {self.task!r} has no {self.train.keep_by} to keep weights by",
                f"Known: {', '.join(('loss', *known))}",
            )
        _one_of("size", self.size, SIZES)
        if self.steps < 0 or self.checkpoint_every < 0:
            raise UsageError("steps and checkpoint_every must not be negative")
        if self.steps and self.budget:
            raise UsageError("give a budget or steps, not both")
        if self.seed < 0 or self.seed >= 2**63:
            raise UsageError(f"seed is {self.seed}: it lies in [0, 2^63)")


def _one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        known = ", ".join(o for o in options if o)
        raise UsageError(
            f"{name}: unknown value {value!r}{nearest(value, options)}", f"Known: {known}"
        )


def config_to_dict(config: RunConfig[Any]) -> dict[str, Any]:
    """Turn a run's config into plain values; the model's table begins with its name."""
    values = to_dict(config)
    values["model"] = {"name": step_of(config.model).name, **values["model"]}
    return values


def config_from_dict(values: dict[str, Any], where: str) -> RunConfig[Any]:
    """Build a run's config from a recipe's or a ``config.toml``'s values."""
    kind = find_kind(str(values.get("task", "lm")))
    model = dict(values.get("model", {}))
    step = find_step(str(model.pop("name", kind.model)), kind.name)
    built = from_dict(step.config, {**to_dict(step.default), **model}, f"{where}.model")
    data = {"sources": [], **values.get("data", {})}  # a recipe may leave them to the command
    read = from_dict(kind.config, data, f"{where}.data")
    return from_dict(RunConfig, {**values, "data": read, "model": built}, where)
