"""What is asked for: refused where it cannot be meant, before anything runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ensue.commands.compare import parse_compare, request_of
from ensue.comparison.plan import LEAST_STEPS, Candidate, _updates
from ensue.comparison.request import COMPARED, CompareConfig, parse_models
from ensue.comparison.work import JUDGES
from ensue.data.corpus import DataConfig
from ensue.data.dialogues import DialogueConfig
from ensue.errors import UsageError
from ensue.models.gpt2 import GPT2Config
from ensue.training.config import RunConfig, TrainConfig

DATA = DataConfig(sources=("book.txt",))


def candidate(name: str, seconds: float, flops: float, context: int = 32) -> Candidate:
    train = TrainConfig(global_batch_size=2048 // context)
    config = RunConfig(data=DATA, model=GPT2Config(context_length=context), train=train)
    return Candidate(name, config, seconds, flops, 1000, 2048.0)


FAST, SLOW = candidate("fast", 0.01, 1e9), candidate("slow", 0.05, 4e9, context=64)


def test_all_five_are_compared_when_none_is_named() -> None:
    assert list(CompareConfig(data=DATA).models) == ["mlp", "cnn", "rnn", "lstm", "gpt2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mlp,mlp", "twice"),
        ("mlp,gtp2", "did you mean 'gpt2'"),
        ("", "none named"),
        ("mlp,mine=nowhere.py:GRU", "no file nowhere.py"),
    ],
)
def test_models_that_do_not_exist_or_are_there_twice_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_models(text)


def test_a_class_of_ones_own_is_named_after_itself(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class GRU: ...\n")
    assert parse_models(f"lstm,{file}:GRU,other={file}:GRU") == {
        "lstm": {"name": "lstm"},
        "gru": {"name": f"{file}:GRU"},
        "other": {"name": f"{file}:GRU"},
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"equal": "parms"}, "did you mean 'params'"),
        ({"models": {"a": {"name": "seq2seq"}}}, "seq2seq cannot learn to continue a text"),
        ({"budget": "1e12flop"}, "not a time"),
        ({"budget": "soon"}, "cannot read 'soon'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"rates": (0.0, 1.0)}, "factors above 0"),
        ({"rates": (1.0, 1.0)}, "different factors"),
        ({"rates": (-1.0, 1.0)}, "factors above 0"),
        ({"size": "xxl"}, "unknown value 'xxl'"),
        ({"models": {"a/b": {"name": "mlp"}}}, "cannot be called"),
    ],
)
def test_values_that_mean_nothing_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        CompareConfig(data=DATA, **values)


def test_a_task_without_a_judge_is_refused_at_once(tmp_path: Path) -> None:
    """Dialogues were accepted, read and tokenised; then there was a KeyError."""
    assert tuple(JUDGES) == COMPARED
    turn = '{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}'
    file = tmp_path / "dialogues.jsonl"
    file.write_text(f'{{"messages": [{turn}]}}\n' * 40)
    with pytest.raises(UsageError, match="comparing chat models is not offered yet") as caught:
        request_of(parse_compare([str(file)], ""))
    assert caught.value.hint.endswith("ensue evaluate RUN --contexts 200")
    with pytest.raises(UsageError, match="not offered yet"):
        CompareConfig(task="chat", data=DialogueConfig(sources=(str(file),)))


@pytest.mark.parametrize("field", ["data", "test"])
def test_text_from_a_pipe_is_refused(field: str) -> None:
    """Every run reads it again: the first would empty it."""
    values: dict[str, Any] = {"data": DATA, "test": ("-",)}
    if field == "data":
        values = {"data": DataConfig(sources=("-",))}
    with pytest.raises(UsageError, match="pipe"):
        CompareConfig(**values)


def test_equal_parameters_come_with_equal_tokens_set_by_the_slowest() -> None:
    updates = _updates("params", [FAST, SLOW], 100.0)
    tokens = [updates[c.name] * c.tokens_per_step for c in (FAST, SLOW)]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.02)
    assert updates["slow"] * SLOW.seconds_per_step < 100.0


def test_equal_operations_are_equal_within_two_percent() -> None:
    updates = _updates("flops", [FAST, SLOW], 100.0)
    flops = [updates[c.name] * c.flops_per_step for c in (FAST, SLOW)]
    assert flops[0] == pytest.approx(flops[1], rel=0.02)
    seconds = [updates[c.name] * c.seconds_per_step for c in (FAST, SLOW)]
    assert max(seconds) < 100.0


def test_at_equal_updates_none_is_stopped_while_another_still_learns() -> None:
    """What learns no more after 50 updates goes on; at equal time it stops then."""
    soon, late = replace(FAST, most_steps=50), replace(FAST, name="late", most_steps=100)
    assert _updates("params", [soon, late], 1e6) == {"fast": 100, "late": 100}
    assert _updates("time", [soon, late], 1e6) == {"fast": 50, "late": 100}


def test_at_equal_time_the_faster_makes_more_updates() -> None:
    updates = _updates("time", [FAST, SLOW], 100.0)
    assert updates["fast"] == pytest.approx(5 * updates["slow"], abs=5)


def test_a_budget_that_one_candidate_cannot_use_is_refused_and_it_is_named() -> None:
    """Found after an hour of the others' training, it would have cost that hour."""
    seconds = 5.0 + LEAST_STEPS * 0.02  # enough for the fast one
    with pytest.raises(UsageError, match="too small for slow"):
        _updates("params", [FAST, SLOW], seconds)


def test_the_task_may_be_named_where_the_data_do_not_tell(tmp_path: Path) -> None:
    """Lines with labels look like text, and `ensue compare` named --task in its help alone."""
    file = tmp_path / "lines.txt"
    file.write_text("good some text\nbad other text\n")
    assert request_of(parse_compare([str(file)], "")).task == "lm"
    named = request_of(parse_compare([str(file), "--task", "classify"], ""))
    assert named.task == "classify"
    assert "gpt2" not in named.models
    assert request_of(parse_compare([str(file), "--task=classify"], "")).task == "classify"
    with pytest.raises(UsageError, match="there is no task 'clasify'; did you mean 'classify'"):
        parse_compare([str(file), "--task", "clasify"], "")
