"""What a comparison says of itself: no more than its runs have shown."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ensue.commands.compare import parse_compare, request_of
from ensue.comparison.plan import ComparisonPlan, Task
from ensue.comparison.request import CompareConfig
from ensue.comparison.text import TextJudge
from ensue.comparison.words import protocol, unfair, verdict, whole_command
from ensue.config import to_dict
from ensue.data.corpus import DataConfig
from ensue.tasks.measures import BITS
from ensue.training.config import TrainConfig

FLOOR = {"name": "5-gram counts", "doing": "counting 5-grams", "bits_per_byte": 2.2}
JUDGE = TextJudge.__new__(TextJudge)  # its words need no text
JUDGE.test, JUDGE.material = "", None  # type: ignore[assignment]
MODELS = {"mlp": {"name": "mlp", "window": 3}, "gpt2": {"name": "gpt2"}}


def row(name: str, bits: float, spread: float | None = 0.01, **changes: Any) -> dict[str, Any]:
    run = {"error": "", "bits_per_byte": bits}
    shared = {"rate": 1.0, "best_run": f"runs/{name}-0", "runs": [run, run]}
    return {
        **shared,
        **{"name": name, "bits_per_byte": bits, "bits_per_byte_spread": spread},
        **{"tokens": 1000, "flops": 1e9, "seconds": 90.0},
        **changes,
    }


def plan(**changes: Any) -> ComparisonPlan:
    request = CompareConfig(data=DataConfig(sources=("book.txt",)), models=MODELS).to_json()
    config: dict[str, Any] = {
        "data": {"sources": ["book.txt"]},
        "steps": 9,
        "train": to_dict(TrainConfig(global_batch_size=4, micro_batch_size=4)),
    }
    shape = {"vocab_size": 40, "context_length": 8, "d_model": 16, "num_layers": 1}
    tasks = [
        Task(f"runs/{name}-0", name, 0.0, 0, {**config, "model": {**table, **shape}})
        for name, table in (*MODELS.items(), ("gpt2", {"name": "gpt2", "num_heads": 2}))
    ]
    values: dict[str, Any] = {
        "request": request,
        "corpus": "",
        "test": "",
        "data": {},
        "tasks": tuple(tasks[::2]),
        "candidates": tuple(MODELS),
        "parameters": {"mlp": 1000, "gpt2": 1010},
        "failed": {},
        "leader": "gpt2",
        "trial_seconds": 27.0,
        "run_seconds": 144.0,
        "machine": {},
        "measure": "bits_per_byte",
    }
    return replace(ComparisonPlan(**values), **changes)


def outcome(targets: int, sampled: bool) -> Any:
    return type("Outcome", (), {"targets": targets, "sampled": sampled})()


def test_the_protocol_states_what_the_trials_were_and_what_was_scored() -> None:
    words = " ".join(protocol(plan(), [outcome(500, False)], JUDGE))
    assert "20% went to 4 trials" in words
    assert "each 19% as long as a run" in words
    assert "every byte scored once" in words
    assert "as gpt2 has" in words
    words = " ".join(protocol(plan(trial_seconds=0.0), [outcome(500, True)], JUDGE))
    assert "No learning rates were tried" in words
    assert "sample of 500 tokens" in words
    assert "every byte" not in words


def test_a_fair_comparison_has_nothing_to_confess(tmp_path: Path) -> None:
    assert unfair(tmp_path, plan(), [row("mlp", 2.1), row("gpt2", 2.0)]) == []


@pytest.mark.parametrize(
    ("changes", "rows", "words"),
    [
        ({"parameters": {"mlp": 1100, "gpt2": 1000}}, [], "mlp has 1,100 weights, +10%"),
        ({}, [row("mlp", 2.1, tokens=900), row("gpt2", 2.0)], "Tokens seen differ by more than 2%"),
        ({}, [row("mlp", 2.1, seconds=160.0)], "mlp: over the 144 s of a run"),
        ({}, [row("mlp", 2.1, rate=4.0)], "mlp: the largest learning rate that was tried (×4)"),
        ({}, [row("mlp", 2.1, rate=0.5)], "mlp: the smallest learning rate"),
        (
            {},
            [row("mlp", 2.1, runs=[{"error": ""}, {"error": "out of memory"}])],
            "mlp: 1 of 2 runs failed and are not in its figures (out of memory)",
        ),
    ],
)
def test_what_was_not_equal_is_said(
    tmp_path: Path, changes: dict[str, Any], rows: list[dict[str, Any]], words: str
) -> None:
    lines = unfair(tmp_path, plan(**changes), rows)
    assert len(lines) == 1
    assert words in lines[0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("a", 2.0), row("b", 2.1)], "more than the spread"),
        ([row("a", 2.0), row("b", 2.01)], "not told apart"),
        ([row("a", 2.0, None), row("b", 2.1, None)], "nobody knows how much of that is chance"),
        ([row("a", 2.0), row("b", 2.1, None)], "nobody knows"),  # of b one run is left
        ([row("a", 2.3)], "No network beats counting"),
        ([row("a", 2.0), row("b", 2.3)], "not beaten by b"),
        ([row("a", 2.195)], "a beat it by no more than their spread"),
        ([], "No network came to the end"),
    ],
)
def test_the_verdict_claims_no_more_than_the_spread_allows(
    rows: list[dict[str, Any]], words: str
) -> None:
    assert words in verdict(rows, [FLOOR], BITS)


def test_the_command_asks_for_the_same_comparison() -> None:
    """Read by the command line itself: a flag left out would be another comparison."""
    asked = CompareConfig(
        data=DataConfig(sources=("book.txt",), tokenizer="char", valid_fraction=0.2),
        test=("test.txt",),
        models={"rnn": {"name": "rnn"}, "gpt2": {"name": "gpt2"}},
        equal="flops",
        budget="90s",
        seeds=2,
        rates=(1.0, 3.0),
        size="s",
        train=TrainConfig(optimizer="adamw", lr=0.002),
    )
    words = shlex.split(whole_command(asked.to_json(), ("rnn", "gpt2"), Path("out")))
    assert words[:2] == ["ensue", "compare"]
    args = parse_compare(words[2:], "")
    assert (request_of(args), args.out, args.jobs) == (asked, "out", 1)


def test_what_no_flag_can_ask_for_has_no_command() -> None:
    asked = CompareConfig(data=DataConfig(sources=("book.txt",)), models=MODELS)
    assert whole_command(asked.to_json(), tuple(MODELS), Path("out")) == ""
