"""The rows of the recall task, and that its score means what it says."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import EVERY, MODELS
from torch import Tensor, nn

from ensue.models import step_of
from ensue.models.gpt2 import GPT2, GPT2Config
from ensue.tasks.measures import BITS
from ensue.tasks.recall import (
    CHANCE,
    GROUP,
    LEAD,
    LETTERS,
    QUERY,
    SYMBOLS,
    TEST,
    TEST_ROWS,
    VALID,
    VALID_ROWS,
    VOCAB_SIZE,
    Recall,
    Rows,
    fixed_rows,
    recall_by_lag,
)
from ensue.tasks.task import Task


class Remembers(nn.Module):
    """Names the last symbol that it was given, however long ago; without one, the first symbol."""

    def __init__(self, max_length: int | None = None) -> None:
        super().__init__()
        self.vocab_size = VOCAB_SIZE
        self.max_length = max_length

    def init_state(self, rows: int, memory: Any = None) -> Any:
        return None

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        if self.max_length:
            assert tokens.shape[1] <= self.max_length
        said = torch.zeros(len(tokens))
        for step in tokens.unbind(dim=1):
            said = torch.where(step < SYMBOLS, step.float(), said)
        return said[:, None, None].expand(*tokens.shape, 1), state

    def head(self, hidden: Tensor) -> Tensor:
        return 30.0 * F.one_hot(hidden[..., 0].long(), VOCAB_SIZE).float()


def listed(batch: list[Rows]) -> list[tuple[list[int], int]]:
    return [
        (row, target)
        for rows in batch
        for row, target in zip(rows.tokens.tolist(), rows.targets.tolist(), strict=True)
    ]


def test_a_row_holds_one_symbol_k_tokens_before_the_query() -> None:
    """A second symbol, a filler that is one, or an off-by-one lag would make all curves wrong."""
    for row, target in listed(Recall(100, seed=3).batch(0, 640)):
        symbols = [i for i, token in enumerate(row) if token < SYMBOLS]
        assert len(symbols) == 1
        assert row[symbols[0]] == target
        assert [i for i, token in enumerate(row) if token == QUERY] == [len(row) - 1]
        assert symbols[0] < LEAD
        assert 1 <= len(row) - 1 - symbols[0] <= 100
    for lag in (1, 2, 17, 128):
        rows = listed(fixed_rows(TEST, lag, SYMBOLS))
        assert len(rows) == SYMBOLS
        assert all(row.index(target) == len(row) - 1 - lag for row, target in rows)


def test_every_lead_is_tested_equally_often() -> None:
    """With one lead a lag's accuracy would be that of one pair of absolute positions."""
    for lag in (1, 40):
        groups = fixed_rows(TEST, lag, TEST_ROWS)
        leads = [row.index(target) for row, target in listed(groups)]
        assert sorted(leads) == sorted(list(range(LEAD)) * (TEST_ROWS // LEAD))
        for rows in groups:  # no symbol is known by its place
            assert sorted(rows.targets.tolist()) == list(range(SYMBOLS))
        chosen = listed(fixed_rows(VALID, lag, VALID_ROWS))
        assert len({row.index(target) for row, target in chosen}) == VALID_ROWS // SYMBOLS
    assert listed(fixed_rows(TEST, 5, 64)) == listed(fixed_rows(TEST, 5, 64))


def test_accuracy_is_that_of_all_groups() -> None:
    """A mean over the first group would be of one lead again."""
    knows = Remembers()
    knows.head = lambda hidden: F.one_hot((hidden[..., 0] % 2).long(), VOCAB_SIZE).float()
    assert recall_by_lag(knows, (3,)) == (2 / SYMBOLS,)

    class NearTheStart(Remembers):  # remembers what stood in the first half of the leads
        def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
            hidden, _ = super().forward(tokens[:, : LEAD // 2])
            return hidden[:, -1:].expand(*tokens.shape, 1), state

    assert recall_by_lag(NearTheStart(), (32,)) == ((1 + CHANCE) / 2,)


def test_lags_are_even_in_their_logarithm_up_to_the_longest() -> None:
    """Evenly drawn lags are nearly all long: nothing would learn the short ones first."""
    task = Recall(128, seed=0)
    lags = []
    for group in range(600):
        row, target = listed(task.batch(group * GROUP, 1))[0]
        lags.append(len(row) - 1 - row.index(target))
    assert (min(lags), max(lags) > 100) == (1, True)
    octaves = [sum(2**i <= lag < 2 ** (i + 1) for lag in lags) for i in range(7)]
    assert min(octaves) > 0.6 * 600 / 7


def test_rows_depend_on_seed_and_index_alone() -> None:
    """A resumed run, another rank or another micro-batch would else see other rows."""
    task = Recall(20, seed=5)
    whole = listed(task.batch(0, 100))
    assert len(whole) == 100
    again = Recall(20, seed=5)
    assert listed(again.batch(7, 50)) == whole[7:57]  # asked for in another order
    for cut in (1, GROUP - 1, GROUP, GROUP + 1, 99):
        assert listed(task.batch(0, cut)) + listed(task.batch(cut, 100 - cut)) == whole
    assert listed(Recall(20, seed=6).batch(0, 100)) != whole
    long = [tuple(row) for row, _ in whole if len(row) > 8]
    assert len(set(long)) == len(long) > 10  # groups do not repeat


def test_rows_of_one_group_have_one_length_and_a_batch_counts_all() -> None:
    """Rows of uneven length cannot be one tensor; a wrong count scales the gradient."""
    task = Recall(50, seed=0)
    batch = task.batch(8, 40)
    assert task.count(batch) == 40
    assert all(rows.tokens.shape[0] == len(rows.targets) for rows in batch)
    assert isinstance(task, Task)


def test_evaluation_rows_are_no_training_rows_and_the_same_for_every_seed() -> None:
    """What was trained on is recalled for other reasons; other rows are not comparable."""
    trained = {tuple(row) for row, _ in listed(Recall(64, seed=0).batch(0, 3000))}
    tested = [tuple(row) for row, _ in listed(fixed_rows(TEST, 32, 256))]
    chosen = [tuple(row) for row, _ in listed(fixed_rows(VALID, 32, 256))]
    assert not trained & {*tested, *chosen}
    assert not set(tested) & set(chosen)
    first, second = (Recall(64, seed=seed).valid for seed in (0, 1))
    assert listed(first) == listed(second)


def test_one_that_remembers_all_scores_1_and_one_that_knows_nothing_a_guess() -> None:
    """The two ends of the scale: they must be exact, or no curve can be read against them."""
    lags = (1, 2, 7, 64, 128)
    assert recall_by_lag(Remembers(), lags) == (1.0,) * 5
    uniform = Remembers()
    uniform.head = lambda hidden: torch.zeros(*hidden.shape[:-1], VOCAB_SIZE)
    assert recall_by_lag(uniform, lags) == (CHANCE,) * 5
    filler = Remembers()  # a model that would rather say a filler is asked for symbols only
    said = 99.0 * F.one_hot(torch.tensor(SYMBOLS + 1), VOCAB_SIZE)
    filler.head = lambda hidden: said.expand(*hidden.shape[:-1], -1)
    assert recall_by_lag(filler, lags) == (CHANCE,) * 5


def test_the_loss_is_the_negative_log_likelihood_of_the_symbols_alone() -> None:
    """Scored at every position, the loss would be that of predicting random fillers."""
    task = Recall(30, seed=1)
    batch = task.batch(0, 48)
    assert float(task.loss(Remembers(), batch).total) < 1e-6
    uniform = Remembers()
    uniform.head = lambda hidden: torch.zeros(*hidden.shape[:-1], VOCAB_SIZE)
    loss = task.loss(uniform, batch)
    assert float(loss.total) / loss.count == pytest.approx(math.log(VOCAB_SIZE))
    assert task.evaluate(uniform)[BITS] == pytest.approx(math.log2(VOCAB_SIZE))


def test_what_lies_outside_of_the_context_is_not_seen() -> None:
    """A row cut on the wrong side, or by one too few, would let a cliff appear elsewhere."""
    shares = recall_by_lag(Remembers(16), (1, 8, 14, 15, 16, 40))
    assert shares == (1.0, 1.0, 1.0, 1.0, CHANCE, CHANCE)


def test_gpt2_beyond_its_context_is_at_chance() -> None:
    """Even with weights that copy perfectly, what it never sees cannot move a logit."""
    shape = {"context_length": 8, "d_model": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.0}
    model = GPT2(GPT2Config(vocab_size=VOCAB_SIZE, **shape)).eval()
    task = Recall(8, seed=0)
    for lag, differs in ((7, True), (8, False)):
        rows = fixed_rows(TEST, lag, 64)[0]
        other = rows.tokens.clone()
        other[other < SYMBOLS] = (other[other < SYMBOLS] + 1) % SYMBOLS
        losses = [
            float(task.loss(model, [Rows(tokens, rows.targets)]).total.detach())
            for tokens in (rows.tokens, other)
        ]
        assert (losses[0] != losses[1]) == differs


@EVERY
def test_every_model_can_be_trained_on_it(model: str) -> None:
    """Gradients must reach the weights through the last position of every architecture."""
    config = replace(MODELS[model], vocab_size=VOCAB_SIZE, dropout=0.0)
    net = step_of(config).model(config)
    task = Recall(4, seed=0)  # validated at the lags 1, 2, 3 and 4
    task.loss(net, task.batch(0, 32)).total.backward()
    assert all(p.grad is not None for p in net.parameters())
    assert task.evaluate(net).targets == 4 * VALID_ROWS
    assert net.training


def test_rows_are_shown_as_letters() -> None:
    """An error report names rows: numbers would have to be looked up."""
    task = Recall(4, seed=0, rows=3)
    (line, *rest) = task.describe(0)
    row, target = line.split(" ")
    assert len(rest) == 2
    assert task.describe(1)[0] == Recall(4, seed=0, rows=4).describe(0)[3]
    assert row.endswith("?")
    assert target in LETTERS[:SYMBOLS]
    assert target in row


def test_evaluation_leaves_every_part_in_its_mode() -> None:
    """A part that a person froze in evaluation mode would train with dropout from then on."""
    model = Remembers().train()
    model.frozen = nn.Dropout(0.5).eval()
    Recall(2, seed=0).evaluate(model)
    recall_by_lag(model, (1,))
    assert model.training
    assert not model.frozen.training
