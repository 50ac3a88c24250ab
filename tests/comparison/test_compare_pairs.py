"""A comparison of encoder-decoders: real processes, tiny models, and what its judge counts."""

import json
import random
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensue import bleu
from ensue.api import load_translator
from ensue.commands.compare import parse_compare, request_of
from ensue.comparison import CompareConfig, Result, compare, plan
from ensue.comparison.pairs import PairsJudge, length_bins
from ensue.comparison.words import whole_command
from ensue.data.corpus import DataConfig
from ensue.data.pairs import PairsConfig, read_splits
from ensue.distributed.env import start_env
from ensue.errors import DataError, MissingExtraError, UsageError
from ensue.models.transformer import TransformerConfig
from ensue.runs import Run
from ensue.tasks.translate import Pairs
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.session import read_data
from ensue.training.tracking import Tracker
from ensue.translator import Search

MODELS: dict[str, dict[str, Any]] = {
    "seq2seq": {"name": "seq2seq", "num_layers": 1},
    "seq2seq_attention": {"name": "seq2seq_attention", "num_layers": 1},
    "transformer": {"name": "transformer", "num_layers": 1, "num_heads": 2, "d_model": 128},
}
"""Wide enough for widths that differ by two to differ by less than 2 % in weights."""


def write_pairs(folder: Path, name: str, count: int, seed: int, least: int = 1) -> None:
    """Words, and their capitals."""
    chosen = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        words = chosen.choices("ab cd efg h ij".split(), k=chosen.randint(least, 7))
        rows[" ".join(words)] = " ".join(words).upper()
    for side, lines in (("src", list(rows)), ("tgt", list(rows.values()))):
        (folder / f"{name}.{side}").write_text("".join(f"{line}\n" for line in lines))


def request_in(folder: Path, **changes: Any) -> CompareConfig:
    if not (folder / "train.src").exists():
        write_pairs(folder, "train", 400, 1)
        write_pairs(folder, "test", 30, 2)
    src, tgt = (str(folder / f"train.{side}") for side in ("src", "tgt"))
    values: dict[str, Any] = {
        "task": "translate",
        "data": PairsConfig(
            src=(src,),
            tgt=(tgt,),
            tokenizer="word",
            src_tokenizer="word",
            valid_fraction=0.3,
            cache=str(folder / "cache"),
        ),
        "test_src": (str(folder / "test.src"),),
        "test_tgt": (str(folder / "test.tgt"),),
        "models": MODELS,
        "budget": "40s",
        "seeds": 2,
        "rates": (1.0,),
        "size": "xs",
        "num_beams": 1,
        "train": TrainConfig(threads=1, precision="fp32", compile="no", batch_tokens=256),
    }
    return CompareConfig(**{**values, **changes})


class Listener(Tracker):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


def judge_of(
    request: CompareConfig, measure: str = "", tracker: Tracker | None = None
) -> PairsJudge:
    reading = RunConfig(task="translate", data=request.data, model=TransformerConfig())
    material = read_data(reading, start_env(), Tracker())
    assert isinstance(material, Pairs)
    return PairsJudge(request, material, tracker or Tracker(), measure)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def result(folder: Path) -> Result:
    patch = pytest.MonkeyPatch()
    patch.setattr(plan, "START_SECONDS", 0.0)  # it takes longer here: tests want few updates
    patch.setattr(plan, "OVERHEAD", 40.0)
    patch.setattr(plan, "LEAST_STEPS", 2)
    try:
        return compare(request_in(folder), folder / "out")
    finally:
        patch.undo()


def test_weights_and_target_tokens_are_equal(result: Result) -> None:
    """The claim of the table: unequal, the rest of it says nothing."""
    rows = result.values["candidates"]
    assert [c["name"] for c in rows] == list(MODELS)
    for c in rows:
        assert c["parameters"] == pytest.approx(rows[-1]["parameters"], rel=0.02)
        assert c["tokens"] == pytest.approx(rows[-1]["tokens"], rel=0.02)
        assert len({run["targets"] for run in c["runs"]}) == 1
    assert not [line for line in result.values["unfair"] if "weights" in line or "Tokens" in line]


def test_each_runs_score_is_what_its_translations_are_worth(result: Result, folder: Path) -> None:
    """Counted again from outside: the run opened by the API, and the files read by hand."""
    run = result.values["candidates"][0]["runs"][1]
    translator = load_translator(result.folder / run["run"])
    src, tgt = ((folder / f"test.{side}").read_text().splitlines() for side in ("src", "tgt"))
    texts = translator.translate(src, Search(num_beams=1))
    assert run["test_exact"] == bleu.exact_share(texts, tgt)
    assert run["test_bleu"] == bleu.corpus_score("BLEU", texts, tgt).value


def test_floors_are_scored_alike(result: Result) -> None:
    """Every word is its own capital: the dictionary knows all of it, the copy nothing."""
    copy, words = result.values["floors"]
    assert (copy["exact"], words["exact"], words["test_exact"]) == (0.0, 100.0, 100.0)
    assert words["bleu"] == pytest.approx(100.0)
    assert "No network beats a dictionary of words (100.00 BLEU)" in result.verdict
    assert result.table()[0]["model"] == words["name"]


def test_what_decides_is_the_mean_over_seeds_of_the_first_measure(result: Result) -> None:
    assert [m["key"] for m in result.values["measures"]] == [
        "bleu",
        "exact",
        "chrf",
        "bits_per_byte",
    ]
    scores = {c["name"]: c["bleu"] for c in result.values["candidates"]}
    assert result.values["winner"] == max(scores, key=lambda name: scores[name])
    for c in result.values["candidates"]:
        assert c["bleu"] == pytest.approx(sum(run["bleu"] for run in c["runs"]) / 2)
        assert c["bleu_spread"] >= 0
        assert c["best_run"] == max(c["runs"], key=lambda run: run["bleu"])["run"]


def test_quality_by_length_adds_up_to_the_whole_and_is_drawn(result: Result) -> None:
    groups = result.values["lengths"]
    assert sum(g["pairs"] for g in groups) == result.values["data"]["valid_pairs"]
    assert len(groups) > 1
    for c in (*result.values["candidates"], *result.values["floors"]):
        assert len(c["by_length"]) == len(groups)
    picture = (result.folder / "bottleneck.svg").read_text()
    assert "word by word" in picture
    assert "bottleneck" in (result.folder / "report.html").read_text()


def test_memory_grows_with_the_source_for_attention_alone(result: Result) -> None:
    kept = {
        c["name"]: [row["state_bytes"] for row in c["generation"]]
        for c in result.values["candidates"]
    }
    assert len(set(kept["seq2seq"])) == 1
    for name in ("seq2seq_attention", "transformer"):
        assert kept[name] == sorted(set(kept[name])), name


def test_the_winner_is_a_run_that_translates(result: Result) -> None:
    assert result.winner is not None
    assert len(load_translator(result.winner).translate(["ab cd", ""])) == 2
    assert "ensue translate winner TEXT" in (result.folder / "report.html").read_text()


def test_the_report_holds_no_row_of_the_data(result: Result, folder: Path) -> None:
    """Pages are shared: translations of a person's own sentences are theirs."""
    lines = (folder / "train.src").read_text().splitlines()
    long = [line for line in lines if len(line) > 12]
    for file in result.folder.glob("*.*"):
        if (
            file.suffix in (".html", ".json", ".md", ".csv", ".svg")
            and "tokenizer" not in file.name
        ):
            text = file.read_text(encoding="utf-8")
            assert not [line for line in long if line in text], file


def test_the_same_call_again_translates_nothing_again(result: Result, folder: Path) -> None:
    files = [*result.folder.glob("*/*/model.safetensors"), folder / "out" / "test.json"]
    before = {path: path.stat().st_mtime_ns for path in files}
    again = compare(request_in(folder), folder / "out")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    keys = ("bleu", "test_bleu", "bits_per_byte", "by_length")
    for a, b in zip(again.values["candidates"], result.values["candidates"], strict=True):
        assert [a[key] for key in keys] == [b[key] for key in keys]
    assert json.loads((result.folder / "results.json").read_text()) == again.values


def test_killed_while_it_translates_it_goes_on_with_the_next_run(
    result: Result, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Translations take minutes: what was scored before the kill is not translated again."""
    scored: list[tuple[str, str]] = []
    score = PairsJudge.score

    def counted(judge: PairsJudge, run: Run, split: str) -> dict[str, Any]:
        if len(scored) == 4:
            monkeypatch.setattr(PairsJudge, "score", listed)
            raise KeyboardInterrupt
        return listed(judge, run, split)

    def listed(judge: PairsJudge, run: Run, split: str) -> dict[str, Any]:
        scored.append((run.path.name, split))
        return score(judge, run, split)

    monkeypatch.setattr(PairsJudge, "score", counted)
    for name in ("valid", "test"):
        (folder / "out" / f"{name}.json").rename(folder / f"{name}.json")
    with pytest.raises(KeyboardInterrupt):
        compare(request_in(folder), folder / "out")
    again = compare(request_in(folder), folder / "out")
    runs = {run["run"].split("/")[1] for c in again.values["candidates"] for run in c["runs"]}
    assert sorted(scored) == sorted((run, split) for run in runs for split in ("valid", "test"))
    for name in ("valid", "test"):
        now, before = ((place / f"{name}.json").read_text() for place in (folder / "out", folder))
        known, old = json.loads(now), json.loads(before)
        for values in (*known["floors"], *old["floors"]):
            values.pop("seconds")
        assert known == old


def test_the_command_asks_for_the_same_comparison(folder: Path) -> None:
    """With models as they are named on the command line, read back by it."""
    asked = request_in(folder, models={name: {"name": name} for name in MODELS})
    data = replace(asked.data, src=("a.de", "b.de"), tgt=("a.en", "b.en"), cache="")
    asked = replace(asked, data=data, test_src=("t.de",), test_tgt=("t.en",))
    words = whole_command(asked.to_json(), tuple(MODELS), Path("out")).split()
    assert request_of(parse_compare(words[2:], "")) == asked


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"models": {"lstm": {"name": "lstm"}}}, "lstm cannot learn to write a sequence"),
        ({"data": DataConfig(sources=("book.txt",))}, "not those of the task"),
        ({"test_tgt": ()}, "1 files for test_src, 0 for test_tgt"),
        ({"test_src": ("a",), "test_tgt": ("a",)}, "a is given as test_src and as test_tgt"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"test_src": ("-",), "test_tgt": ("a",)}, "pipe"),
    ],
)
def test_what_pairs_cannot_be_compared_by_is_refused(
    tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        request_in(tmp_path, **values)


def test_models_of_two_tasks_are_refused_with_those_that_can() -> None:
    words = ["--src", "a.de", "--tgt", "a.en", "--models", "seq2seq,lstm"]
    with pytest.raises(UsageError) as caught:
        request_of(parse_compare(words, ""))
    assert "lstm cannot learn" in str(caught.value)
    assert "seq2seq, seq2seq_attention, transformer" in str(caught.value)
    with pytest.raises(UsageError, match="transformer cannot learn to continue a text"):
        request_of(parse_compare(["book.txt", "--models", "gpt2,transformer"], ""))


def test_a_test_set_of_unequal_length_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    request = request_in(tmp_path)
    with open(tmp_path / "test.src", "a") as file:
        file.write("ab\n")
    with pytest.raises(DataError, match="31 lines"):
        compare(request, tmp_path / "out")
    assert not (tmp_path / "out" / "comparison.json").exists()


def test_what_makes_a_test_score_doubtful_is_said_and_nothing_is_left_out(tmp_path: Path) -> None:
    """Sources that a model knows by heart; a published test set stays whole all the same."""
    request = request_in(tmp_path)
    assert isinstance(request.data, PairsConfig)
    with read_splits(request.data, lambda *_: None) as splits:
        train, valid = (list(split.texts()) for split in splits)
    new = [(f"new {i} ab", f"NEW {i} AB") for i in range(10)]
    rows = [*train[:3], ("", "X"), *new, *valid[:2], ("x", " ")]
    for side, lines in zip(("src", "tgt"), zip(*rows, strict=True), strict=True):
        (tmp_path / f"test.{side}").write_text("".join(f"{line}\r\n" for line in lines), newline="")
    heard = Listener()
    judge = judge_of(request, tracker=heard)
    assert judge.facts()["test_pairs"] == len(rows) == 17
    remarks = [
        "2 of 17 test pairs have an empty side (the first: test.src:4, test.src:17)",
        "3 of 17 test pairs have a source that also stands in train"
        " (the first: test.src:1, test.src:2, test.src:3)",
        "2 of 17 test pairs have a source that also stands in valid"
        " (the first: test.src:15, test.src:16)",
    ]
    whole = [f"{remark}; they are scored all the same" for remark in remarks]
    assert [line for line in heard.notices if "test pairs" in line] == whole
    assert "CRLF line ends read as LF: test.src, test.tgt" in heard.notices
    assert [line for line in judge.scoring([]) if line.startswith("Test: ")] == [
        f"Test: {line}." for line in whole
    ]


def test_of_a_clean_test_set_nothing_is_said(tmp_path: Path) -> None:
    request = request_in(tmp_path)
    for side in ("src", "tgt"):
        (tmp_path / f"test.{side}").write_text("".join(f"new {i} AB\n" for i in range(9)))
    heard = Listener()
    assert not [line for line in judge_of(request, tracker=heard).scoring([]) if "Test:" in line]
    assert not [line for line in heard.notices if "test" in line]


def test_what_is_validated_on_may_be_tested_on_and_is_said(tmp_path: Path) -> None:
    """Not refused in words about files to learn from, which it is not."""
    request = request_in(tmp_path)
    data = replace(request.data, valid_src=request.test_src, valid_tgt=request.test_tgt)
    heard = Listener()
    judge_of(replace(request, data=data), tracker=heard)
    (said,) = [line for line in heard.notices if "test pairs" in line]
    assert said.startswith("30 of 30 test pairs have a source that also stands in valid")


def test_a_test_set_the_other_way_round_is_refused(tmp_path: Path) -> None:
    """Every score on it would be next to nothing, after hours."""
    write_pairs(tmp_path, "train", 400, 1)
    write_pairs(tmp_path, "test", 30, 2)
    for name in ("train", "test"):
        target = tmp_path / f"{name}.tgt"
        target.write_text(re.sub(r"\w+", r"\g<0>o", target.read_text()))
    request = request_in(tmp_path)
    judge_of(request)
    request = replace(request, test_src=request.test_tgt, test_tgt=request.test_src)
    with pytest.raises(DataError, match="the test set is the other way round"):
        judge_of(request)


def test_references_of_few_words_are_not_counted_by_groups_of_four(tmp_path: Path) -> None:
    """BLEU counts groups of four words: of dates it is 0, whatever the model."""
    request = request_in(tmp_path)
    assert judge_of(request).measures[0].key == "bleu"
    targets = tmp_path / "train.tgt"
    for text, key in (("{}-7", "exact"), ("大山の上に雲が流れている{}", "chrf")):
        targets.write_text("".join(text.format(i) + "\n" for i in range(400)))
        assert judge_of(request).measures[0].key == key


def test_without_sacrebleu_exact_matches_decide_and_a_plan_that_says_bleu_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bleu, "is_installed", lambda: False)
    request = request_in(tmp_path)
    assert [m.key for m in judge_of(request).measures] == ["exact", "bits_per_byte"]

    def missing() -> None:
        raise MissingExtraError("sacrebleu", "bleu")

    monkeypatch.setattr(bleu, "require", missing)
    with pytest.raises(MissingExtraError, match="sacrebleu"):
        judge_of(request, "bleu")


def test_every_model_reads_the_same_pairs_however_long(tmp_path: Path) -> None:
    """The Transformer's 512 positions must not spare it the long pairs that the others read."""
    request = request_in(tmp_path)
    request = replace(request, data=replace(request.data, max_tokens=900))
    assert judge_of(request).shared(TransformerConfig(context_length=512)) == {
        "context_length": 900
    }


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_lengths_are_whole_apart_and_about_equal(seed: int) -> None:
    lengths = np.random.default_rng(seed).poisson(12, 2000)
    bins = length_bins(lengths)
    assert bins == sorted(bins)
    assert all(a[1] < b[0] for a, b in pairwise(bins))
    sizes = [int(((low <= lengths) & (lengths <= high)).sum()) for low, high in bins]
    assert sum(sizes) == len(lengths)
    assert max(np.bincount(lengths)) <= max(sizes) < 2000 / 8 + max(np.bincount(lengths))


def test_few_or_equal_lengths_make_one_group() -> None:
    assert length_bins(np.array([5] * 1000)) == [(5, 5)]
    assert length_bins(np.array([3, 9, 4])) == [(3, 9)]
    assert length_bins(np.array([1] * 500 + [2] * 500), most=8) == [(1, 1), (2, 2)]
