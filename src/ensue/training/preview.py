"""What a run would do and cost, before anything is spent."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ensue.distributed.env import start_env
from ensue.models import step_of
from ensue.planning import Cost, build_empty, cost, memory_bytes
from ensue.runs import Run
from ensue.tasks import find_kind
from ensue.training.choose import choose
from ensue.training.config import RunConfig
from ensue.training.session import read_data
from ensue.training.tracking import Tracker

Rows = list[tuple[str, str]]

SHOWN_ROWS, SHOWN_CHARACTERS = 2, 300


def preview(config: RunConfig[Any], tracker: Tracker) -> Rows:
    """Read the data, measure the machine, and give the plan in words; writes no run.

    Args:
        config: The request.
        tracker: Hears what was guessed, and how the reading goes.

    Returns:
        Lines of (what, value).
    """
    begun = time.monotonic()
    env = start_env()
    material = read_data(config, env, tracker)
    with tempfile.TemporaryDirectory() as folder:
        plan = choose(config, material, Run(Path(folder)), env, tracker, begun)
    chosen, train = plan.config, plan.config.train
    empty: Any = build_empty(step_of(chosen.model).model, chosen.model)
    targets = material.targets_per_update(chosen)
    largest = max(material.shapes(chosen), key=lambda s: s.rows * (s.steps + s.source_steps))
    costs = replace(
        cost(empty, *largest),
        flops_per_step=round(plan.flops_per_step),
        tokens_per_step=round(targets),
    )
    epochs = targets * chosen.steps / material.train_targets
    read = find_kind(config.task).targets
    rows = [
        ("model", f"{step_of(chosen.model).title}, size {chosen.size}"),
        ("shape", _shape(chosen.model)),
        *_costs(costs, chosen.steps, read),
        ("time", _duration(plan.seconds_per_step * chosen.steps)),
        *material.facts(),
        ("epochs", f"{epochs:.2f}" + (OVERFIT if epochs > MANY_EPOCHS else "")),
        ("update", f"about {targets:,.0f} {read}"),
        ("numbers", f"{train.precision}, {train.threads} threads, compile {train.compile}"),
    ]
    shown = material.task(chosen, env.device).describe(0)[:SHOWN_ROWS]
    rows += [(f"row {i}", text[:SHOWN_CHARACTERS]) for i, text in enumerate(shown)]
    return rows


MANY_EPOCHS = 12
OVERFIT = ": the text is small for this budget; the best weights on the held-out part are kept"


def preview_published(name: str) -> Rows:
    """Give what training one of GPT-2's published sizes costs.

    Args:
        name: gpt2, gpt2-medium, gpt2-large or gpt2-xl.
    """
    from ensue.models.gpt2 import GPT2, PUBLISHED

    config = PUBLISHED[name]
    costs = cost(build_empty(GPT2, config), 512, config.context_length, micro_rows=8)
    return [
        ("model", name),
        ("shape", _shape(config)),
        *_costs(costs, 0),
        ("update", "512 rows of 1,024 tokens, as published; memory for 8 rows at a time"),
    ]


def _shape(model: Any) -> str:
    words = {"num_layers": "{} layers", "num_heads": "{} heads", "window": "window of {}"}
    words |= {"kernel_size": "{} taps", "d_model": "width {}", "context_length": "context {}"}
    parts = [(text, getattr(model, name, 0)) for name, text in words.items()]
    return ", ".join(text.format(value) for text, value in parts if value)


def _costs(costs: Cost, steps: int, read: str = "tokens") -> Rows:
    memory = costs.state_bytes + costs.activation_bytes
    have = memory_bytes()
    fits = ", more than this machine has" if 0 < have < memory else ""
    rows = [
        ("parameters", f"{costs.parameters:,}"),
        (
            "operations",
            f"{costs.flops_per_step:.3g} FLOP an update of {costs.tokens_per_step:,} {read}",
        ),
        (
            "memory",
            f"about {_bytes(memory)} ({_bytes(costs.state_bytes)} of weights and moments){fits}",
        ),
        ("checkpoint", f"{_bytes(costs.checkpoint_bytes)} each, two are kept"),
    ]
    if steps:
        rows.insert(2, ("updates", f"{steps:,}, {costs.flops_per_step * steps:.3g} FLOP in all"))
    return rows


def _bytes(number: int | float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _duration(seconds: float) -> str:
    if not seconds:
        return "not measured: the number of updates was given"
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.1f} min"
