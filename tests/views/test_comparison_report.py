"""The report of a comparison: complete, failed, hostile, and honest about chance."""

import copy
import csv
import json
import re
import sys
from dataclasses import asdict
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pages import PAYLOAD, Page, assert_harmless

from ensue.comparison.pairs import BLEU
from ensue.runs import Run
from ensue.tasks.measures import BITS
from ensue.views.comparison import write_comparison
from ensue.views.lines import GAP, STYLES, Line, apart

MODELS = {
    # name: bits per byte of the seeds, steps, seconds, FLOPs a step, tokens/s generating, bytes
    "mlp": ((2.351, 2.345, 2.339), 900, 171.2, 1.31e10, 2100.0, 1_024),
    "cnn": ((2.298, 2.301, 2.292), 900, 154.9, 1.42e10, 1400.0, 24_576),
    "rnn": ((2.281, 2.275, 2.290), 900, 166.0, 1.29e10, 2300.0, 2_048),
    "lstm": ((2.118, 2.121, 2.110), 900, 160.3, 1.35e10, 1800.0, 4_096),
    "gpt2": ((2.105, 2.101, 2.112), 900, 149.7, 1.50e10, 1250.0, 65_536),
}
TOKENS, EVALS = 4096, 9
SPREADS = {"mlp": 0.006, "cnn": 0.0046, "rnn": 0.0075, "lstm": 0.0057, "gpt2": 0.0056}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _no_png(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures by matplotlib take seconds: one test asks for them."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def write_run(
    folder: Path, score: float, steps: int, seconds: float, flops: float, final: bool = True
) -> None:
    """An ordinary run that falls from 5 bits or more to its score."""
    run = Run.create(folder)
    run.write_plan({"flops_per_step": flops, "config": {"steps": steps}})
    every = steps // EVALS
    for step in range(every // 2, steps + 1, every // 2):
        loss = score + 3 * ((steps / step) ** 0.5 - 1) / steps**0.25
        shared = {"step": step, "loss": 1.4 * loss}
        tokens, spent = step * TOKENS, seconds * step / steps
        run.append_metrics({"kind": "step", **shared, "tokens": tokens, "seconds": spent})
        if step % every == 0 and step < steps:
            run.append_metrics({"kind": "eval", **shared, "bits_per_byte": loss + 0.004})
    if final:
        end = {"kind": "final", "step": steps, "loss": 1.4 * score, "bits_per_byte": score}
        run.append_metrics(end)


def candidate(folder: Path, name: str, shown: str = "", seeds: int = 3) -> dict[str, Any]:
    scores, steps, seconds, flops, speed, state = MODELS[name]
    shown = shown or name
    runs = []
    for seed, score in enumerate(scores[:seeds]):
        write_run(folder / "runs" / f"{name}-{seed}", score, steps, seconds + seed, flops)
        runs.append(
            {
                "seed": seed,
                "run": f"runs/{name}-{seed}",
                "bits_per_byte": score,
                "seconds": seconds + seed,
                "peak_bytes": 612_000_000,
                "error": "",
                "command": f"ensue train compare/book/runs/{name}-{seed}.toml --out again-{seed}",
            }
        )
    mean = sum(scores[:seeds]) / seeds
    trials = [(0.5, mean + 0.2), (1.0, mean + 0.1), (2.0, mean + 0.15)]
    return {
        "name": shown,
        "error": "",
        "parameters": 1_012_345,
        "flops": flops * steps,
        "seconds": seconds + (seeds - 1) / 2,
        "tokens": steps * TOKENS,
        "tokens_per_second": steps * TOKENS / seconds,
        "peak_bytes": 612_000_000,
        "bits_per_byte": mean,
        "bits_per_byte_spread": SPREADS[name] if seeds > 1 else None,
        "test_bits_per_byte": None,
        "test_bits_per_byte_spread": None,
        "rate": 1.0,
        "shape": {"d_model": 128, **({"num_heads": 2} if name == "gpt2" else {}), "lr": 0.015},
        "best_run": "",
        "trials": [
            {"rate": r, "bits_per_byte": b, "run": f"trials/{name}-{r}", "error": ""}
            for r, b in trials
        ],
        "runs": runs,
        "generation": [
            {
                "context": context,
                "tokens_per_second": speed / (1 + (name == "gpt2") * context / 2000),
                "state_bytes": state * (context if name == "gpt2" else 1),
            }
            for context in (64, 256, 1024, 4096)
        ],
        "samples": [
            {"prompt": "", "text": f"\nFirst {shown}:\n\tWe are accounted poor citizens."},
            {"prompt": "ROMEO:", "text": f"\nWhat says my {shown}? 東京 في"},
        ],
    }


def comparison(folder: Path, names: tuple[str, ...] = (), seeds: int = 3) -> dict[str, Any]:
    """Folders and results as `ensue compare` leaves them."""
    names = names or tuple(MODELS)
    winner = min(names, key=lambda name: MODELS[name][0])
    return {
        "version": "0.1.0",
        "command": "ensue compare book.txt --equal params --budget 3min --out compare/book",
        "data": {
            "sources": ["/home/alice/private/book.txt"],
            "valid": [],
            "test": [],
            "tokenizer": "bpe, 1,024 entries",
            "train_bytes": 1_003_854,
            "valid_bytes": 111_540,
            "test_bytes": 0,
        },
        "equal": "params",
        "budget": "3min",
        "seeds": seeds,
        "rates": [0.5, 1.0, 2.0],
        "machine": {"processor": "x86_64", "capability": "AVX512", "torch_version": "2.13.0"},
        "protocol": ["Equal: weights (within 2 %) and tokens seen.", "Trials took 20 %."],
        "unfair": ["Threads differ: each candidate has the number that is fastest for it."],
        "measures": [asdict(BITS)],
        "floors": [
            {
                "name": "5-gram counts (modified Kneser-Ney, bytes)",
                "bits_per_byte": 2.2201,
                "seconds": 1.4,
                "note": "",
            }
        ],
        "candidates": [candidate(folder, name, seeds=seeds) for name in names],
        "winner": winner,
        "verdict": f"{winner} predicts this text best.",
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("compare") / "book"
    folder.mkdir()
    return folder, comparison(folder)


def show(folder: Path, results: dict[str, Any]) -> tuple[Page, str]:
    """Write the report; whatever it shows, it is well formed."""
    path = write_comparison(folder, results)
    for name in ("curves", "generation"):
        if (folder / f"{name}.svg").exists():
            ElementTree.parse(folder / f"{name}.svg")
    text = path.read_text("utf-8")
    return Page(text), text


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def without_runs(one: dict[str, Any]) -> dict[str, Any]:
    """What is known of a candidate that never came to a run: its name."""
    return {k: v if k == "name" else [] if isinstance(v, list) else None for k, v in one.items()}


# --- what is told ---------------------------------------------------------------------------------


def test_every_number_of_the_results_is_in_the_table(finished):
    """A column left out hides what a model costs."""
    page, text = show(*finished)
    lstm = ["lstm", "2.116 ± 0.006", "1,012,345", "1.22e13", "161.3", "3.69M", "22,997"]
    assert [*lstm, "612 MB", "×1", "1,800", ""] in page.rows
    gpt2 = ["gpt2", "2.106 ± 0.006", "1,012,345", "1.35e13", "150.7", "3.69M", "24,625"]
    assert [*gpt2, "612 MB", "×1", "1,211", "the winner"] in page.rows
    floor = ["5-gram counts (modified Kneser-Ney, bytes)", "2.220", "–", "–", "1.4"]
    assert [*floor, *["–"] * 5, "the floor: no network"] in page.rows
    assert next(row for row in page.rows if row[:1] == ["rnn"])[-1] == "no better than counting"
    assert ["lstm", "2.316", "2.216", "2.266", "×1"] in page.rows
    assert ["gpt2", "1", "2.1010", "150.7", "612 MB", ""] in page.rows
    assert ["gpt2", "4,096", "410.1", "268,435,456"] in page.rows
    assert ["num_heads", "–", "–", "–", "–", "2"] in page.rows
    assert "alice" not in text, "a report is made to be shared"


def test_the_verdict_comes_first_and_the_margins_with_it(finished):
    folder, results = finished
    page, _ = show(folder, results)
    for words in (
        "gpt2 2.106 bits per byte on valid",
        "gpt2 predicts this text best.",
        "gpt2 below lstm, bits per byte0.010 (0.5%)",
        "gpt2 below the floor, bits per byte0.114 (5.1%)",
        "Threads differ",
        "Trials took 20 %.",
        "ensue compare book.txt --equal params",
        "ensue train compare/book/runs/mlp-2.toml --out again-2",
        "ensue generate winner",
    ):
        assert words in page.text.replace("\n", " ")
    assert page.text.index("predicts this text best") < page.text.index("tokens/s")


def test_a_network_that_counting_beats_does_not_win(finished):
    folder, results = finished
    results = copy.deepcopy(results) | {"verdict": ""}
    results["floors"][0]["bits_per_byte"] = 1.9
    for winner in ("", "gpt2"):
        page, _ = show(folder, results | {"winner": winner})
        assert "No network beats counting." in page.text
        assert "gpt2 above the floor, bits per byte0.206 (10.8%)" in page.text
        assert "the winner" not in page.text


def test_a_test_text_has_a_column_where_there_is_one(finished):
    folder, results = finished
    results = copy.deepcopy(results)
    assert "on test" not in next(row for row in show(folder, results)[0].rows if "tokens" in row)
    results["candidates"][0] |= {"test_bits_per_byte": 2.4444, "test_bits_per_byte_spread": 0.0123}
    page, _ = show(folder, results)
    assert "2.444 ± 0.012" in next(row for row in page.rows if row[:1] == ["mlp"])
    assert "on test" in next(row for row in page.rows if "tokens" in row)


def of_pairs(results: dict[str, Any]) -> dict[str, Any]:
    """The same as a comparison of encoder-decoders: BLEU decides, by the length of the source."""
    results = copy.deepcopy(results)
    groups = [(2, 5, 4.0, 60), (6, 9, 7.5, 60), (10, 31, 14.0, 60)]
    keys = ("shortest", "longest", "mean", "pairs")
    results["lengths"] = [dict(zip(keys, group, strict=True)) for group in groups]
    results["measures"] = [asdict(BLEU), asdict(BITS)]
    results["task"] = "translate"
    for i, c in enumerate(results["candidates"]):
        c |= {"bleu": 30.0 + i, "bleu_spread": 0.5, "test_bleu": 29.0, "test_bleu_spread": 0.1}
        c["by_length"] = [{"mean": 40.0 - i * n, "spread": 1.0 + n} for n in range(3)]
    means = [{"mean": 3.0, "spread": None}] * 3
    results["floors"] = [
        {"name": "copy of the source", "bleu": 3.0, "seconds": 0.0, "by_length": means},
        {"name": "word by word", "bleu": 9.0, "seconds": 1.0, "by_length": means},
    ]
    return results


def test_translations_are_told_apart_by_their_own_measure(finished):
    """Bits per byte fall from left to right, BLEU rises: the wrong one would crown the last."""
    folder, results = finished
    page, _ = show(folder, of_pairs(results))
    assert "gpt2 34.00 BLEU on valid" in page.text
    assert "gpt2 above lstm, BLEU1.00" in page.text
    assert "gpt2 above the floor, BLEU25.00" in page.text
    row = next(row for row in page.rows if row[0] == "mlp")
    assert row[1:4] == ["30.00 ± 0.50", "29.00 ± 0.10", "2.345 ± 0.006"]
    assert next(row for row in page.rows if row[0] == "word by word")[1] == "9.00"
    assert "ensue translate winner TEXT" in page.text.replace("\n", " ")
    names = [line.split(" | ")[0] for line in (folder / "table.md").read_text().splitlines()]
    assert names[2:9] == [
        f"| {name}" for name in (*reversed(MODELS), "word by word", "copy of the source")
    ]
    table = {row["name"]: row for row in rows_of(folder / "table.csv")}
    assert (table["cnn"]["bleu"], table["cnn"]["test_bleu_spread"]) == ("31.0", "0.1")


def test_quality_by_length_is_drawn_with_its_spread_and_the_floors(finished):
    folder, results = finished
    page, _ = show(folder, of_pairs(results))
    picture = ElementTree.parse(folder / "bottleneck.svg")
    marks = [node.get("class") or "" for node in picture.iter(f"{SVG}path")]
    assert sum(mark.startswith("mean ") for mark in marks) == len(MODELS) + 2
    assert sum(mark.startswith("bar ") for mark in marks) == 3 * (len(MODELS) + 2)
    assert ["10–31", "60", "40.00 ± 3.00", "38.00 ± 3.00"] == next(
        row for row in page.rows if row[0] == "10–31"
    )[:4]
    assert "tokens of the source" in page.text


@pytest.mark.parametrize("change", [{"lengths": []}, {"lengths": [{"mean": 4.0}]}])
def test_one_length_is_no_curve(finished, tmp_path, change):
    _, results = finished
    page, _ = show(tmp_path, of_pairs(results) | change)
    assert "bottleneck" not in page.text
    assert not (tmp_path / "bottleneck.svg").exists()


# --- what failed ----------------------------------------------------------------------------------


def test_a_run_that_goes_on_or_is_gone_harms_no_curve(tmp_path):
    """Curves are read from folders that another process writes, or a person has deleted."""
    results = comparison(tmp_path, ("lstm", "gpt2"))
    Run.open(tmp_path / "runs/lstm-1").metrics_path.unlink()
    (tmp_path / "runs/lstm-2/plan.json").write_text("{")
    write_run(tmp_path / "runs/gpt2-9", 2.5, 450, 70.0, 1.5e10, final=False)
    results["candidates"][1]["runs"].append({"seed": 9, "run": "runs/gpt2-9"})
    results["candidates"][1]["runs"].append({"seed": 10, "run": "runs/never"})
    show(tmp_path, results)
    rows = rows_of(tmp_path / "curves.csv")
    assert {(r["name"], r["seed"]) for r in rows} == {
        *(("lstm", "0"), ("lstm", "2"), ("gpt2", "0"), ("gpt2", "1"), ("gpt2", "2"), ("gpt2", "9"))
    }
    assert all(r["flops"] == "" for r in rows if (r["name"], r["seed"]) == ("lstm", "2"))


def test_failures_stand_in_the_table_with_their_reason(finished):
    """A candidate that vanished from the table would look as if it had never been tried."""
    folder, results = finished
    results = copy.deepcopy(results)
    gone = without_runs(results["candidates"][0]) | {"error": "diverged at step 12"}
    gone["trials"] = [{"rate": 2.0, "bits_per_byte": None, "error": "out of memory"}]
    results["candidates"][0] = gone
    results["candidates"][3]["runs"][1] |= {"bits_per_byte": None, "error": "out of memory"}
    page, _ = show(folder, results)
    mlp = next(row for row in page.rows if row[:1] == ["mlp"])
    assert mlp[1] == "failed"
    assert mlp[-1] == "failed: diverged at step 12"
    assert ["mlp", "–", "–", "out of memory", "–"] in page.rows
    lstm = next(row for row in page.rows if row[:1] == ["lstm"])
    assert lstm[-1] == "seed 1 failed: out of memory"
    for one in results["candidates"]:
        one |= {"error": "out of memory", "bits_per_byte": None}
    page, _ = show(folder, results | {"winner": ""})
    assert "No network finished." in page.text


@pytest.mark.parametrize(("names", "seeds"), [(("gpt2",), 3), (("gpt2",), 1), ((), 1)])
def test_one_model_or_one_seed_is_a_comparison_too(tmp_path, names, seeds):
    results = comparison(tmp_path, names, seeds)
    page, _ = show(tmp_path, results)
    assert "gpt2 2.10" in page.text
    assert ("±" in page.text) == (seeds > 1)
    assert ("gpt2 below lstm" in page.text) == (names == ())
    for floors in ([], [{"name": "", "bits_per_byte": None}]):
        page, _ = show(tmp_path, results | {"floors": floors})
        assert "floor" not in page.text


# --- what others may write into it ----------------------------------------------------------------


def test_hostile_names_and_texts_stay_text(tmp_path):
    """A report is opened in a browser, its table in a spreadsheet, its picture anywhere."""
    results = comparison(tmp_path, ("mlp", "gpt2"))
    results["candidates"][0]["name"] = PAYLOAD
    for one in results["candidates"]:
        one["samples"] = [{"prompt": PAYLOAD, "text": PAYLOAD}]
        one["runs"][0]["error"] = PAYLOAD
        one["runs"][0]["command"] = PAYLOAD
        one["trials"][0]["error"] = PAYLOAD
    results["candidates"].append(without_runs(results["candidates"][1]) | {"error": PAYLOAD})
    results |= {key: PAYLOAD for key in ("version", "command", "budget", "verdict", "winner")}
    results |= {key: [PAYLOAD] for key in ("protocol", "unfair")}
    results["machine"] = {PAYLOAD: PAYLOAD}
    results["floors"][0] |= {"name": PAYLOAD, "note": PAYLOAD}
    results["data"] |= {"sources": [PAYLOAD], "tokenizer": PAYLOAD}
    page, text = show(tmp_path, results)
    assert_harmless(text, page)
    assert "\\x1b[31m" in page.text
    for name in ("curves.svg", "table.csv", "curves.csv"):
        raw = (tmp_path / name).read_text("utf-8")
        assert "\x1b" not in raw
        assert name == "curves.svg" or "\\x1b[31m" in rows_of(tmp_path / name)[0]["name"]
    tags = {node.tag for node in ElementTree.parse(tmp_path / "curves.svg").iter()}
    assert tags <= {SVG + t for t in "svg g title desc style rect path text circle".split()}


def test_the_pictures_ask_for_nothing(finished):
    folder, results = finished
    show(folder, results)
    for name in ("curves.svg", "generation.svg"):
        text = (folder / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|url\(|@import|href|var\(", text)


# --- files for other programs ---------------------------------------------------------------------


def test_the_table_comes_back_from_its_file(finished):
    """A number that a paper cites must not be the rounded one of the page."""
    folder, results = finished
    show(folder, results)
    *rows, floor = rows_of(folder / "table.csv")
    for row, one in zip(rows, results["candidates"], strict=True):
        assert row["name"] == one["name"]
        for key in (
            "parameters",
            "flops",
            "seconds",
            "bits_per_byte",
            "bits_per_byte_spread",
            "rate",
        ):
            assert float(row[key]) == one[key]
        assert row["test_bits_per_byte"] == ""
        last = one["generation"][-1]
        assert float(row["tokens_per_second_after_4096"]) == last["tokens_per_second"]
        assert float(row["state_bytes_after_4096"]) == last["state_bytes"]
    assert float(floor["bits_per_byte"]) == 2.2201
    assert floor["parameters"] == ""
    assert floor["note"] == "the floor: no network"


def test_the_table_can_be_pasted_into_a_page(finished):
    """Best first, as the terminal has it; a name cannot break out of its cell."""
    folder, results = finished
    results = copy.deepcopy(results)
    results["candidates"][0]["name"] = "m|lp"
    show(folder, results)
    head, rule, *rows = (folder / "table.md").read_text("utf-8").split("\n\n")[0].splitlines()
    assert head.startswith("| model | bits per byte, valid |")
    assert set(rule) == set("| -")
    names = [row.removeprefix("| ").split(" | ")[0] for row in rows]
    assert names == ["gpt2", "lstm", results["floors"][0]["name"], "rnn", "cnn", "m\\|lp"]
    assert rows[5].startswith("| m\\|lp | 2.345 ± 0.006 |")
    assert {row.replace("\\|", "").count("|") for row in [head, *rows]} == {head.count("|")}


def test_the_curves_come_back_from_their_file(finished):
    folder, results = finished
    show(folder, results)
    rows = rows_of(folder / "curves.csv")
    assert len(rows) == 5 * 3 * EVALS
    last = [r for r in rows if r["name"] == "lstm" and r["seed"] == "2"][-1]
    assert (last["step"], float(last["tokens"])) == ("900", 900 * TOKENS)
    assert float(last["flops"]) == 900 * 1.35e10
    assert float(last["seconds"]) == pytest.approx(162.3)
    assert float(last["bits_per_byte"]) == 2.110


# --- pictures -------------------------------------------------------------------------------------


def names_in(picture: Any) -> list[tuple[str, float]]:
    """Names at the ends of lines, with their places from top to bottom."""
    found = [t for t in picture.iter() if t.attrib.get("class") == "name"]
    return sorted(((t.text or "", float(t.attrib["y"])) for t in found), key=lambda n: n[1])


def panels_of(path: Path) -> list[Any]:
    return list(ElementTree.parse(path).getroot().findall(f"{SVG}g"))


def test_each_picture_has_words_labels_and_a_table(finished):
    page, text = show(*finished)
    pictures = [attrs for tag, attrs in page.tags if attrs.get("role") == "img"]
    assert len(pictures) == 6  # four of curves, two of generating
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(set(str(p["aria-labelledby"]).split()) <= set(ids) for p in pictures)
    assert "best first: gpt2 from" in text
    means = [row for row in page.rows if row[:2] == ["lstm", "900"]]
    assert means == [["lstm", "900", "3,686,400", "1.22e13", "161.3", "2.1163"]]


def test_lines_are_named_at_their_end_in_the_order_of_their_scores(finished):
    """Who cannot tell the colours reads the names; two that end together must not overlap."""
    folder, results = finished
    show(folder, results)
    for panel in panels_of(folder / "curves.svg"):
        names = names_in(panel)
        assert [name for name, _ in names] == ["mlp", "cnn", "rnn", "floor", "lstm", "gpt2"]
        places = [place for _, place in names]
        assert all(b - a >= GAP - 0.11 for a, b in pairwise(places))


def test_close_ends_can_be_told_apart(finished):
    """Drawn from the first evaluation, 5 bits high, a lead of 0.01 is less than a pixel."""
    folder, results = finished
    page, _ = show(folder, results)
    steps = panels_of(folder / "curves.svg")[0]
    leads = [n.attrib["d"] for n in steps.iter() if n.attrib.get("class") == "lead"]
    ends = [float(re.split("[ H]", d)[1]) for d in leads]
    assert ends[3] - ends[4] < -3  # lstm and gpt2, 0.01 bits apart
    assert "the steep start" in page.text


def test_what_lies_far_off_does_not_press_the_others_flat(finished):
    folder, results = finished
    results = copy.deepcopy(results)
    results["floors"][0]["bits_per_byte"] = 5.0
    page, _ = show(folder, results)
    assert "The floor of 5.000 is outside" in page.text
    assert names_in(panels_of(folder / "curves.svg")[0])[0][0] == "floor ↑"
    results["floors"][0]["bits_per_byte"] = 0.9
    show(folder, results)
    assert names_in(panels_of(folder / "curves.svg")[0])[-1][0] == "floor ↓"


def test_models_of_very_different_length_share_an_axis(tmp_path):
    """At equal time one makes 10 times the steps: the other would fill a corner."""
    results = comparison(tmp_path, ("mlp",))
    slow = candidate(tmp_path, "gpt2")
    for run in slow["runs"]:
        run["run"] += "-slow"
        write_run(tmp_path / run["run"], run["bits_per_byte"], 90, 170.0, 1.5e11)
    results["candidates"].append(slow)
    show(tmp_path, results)
    axes = [" ".join(t.text or "" for t in p.iter()) for p in panels_of(tmp_path / "curves.svg")]
    assert ["logarithmic" in words for words in axes] == [True, True, False, False]


def test_the_mean_ends_at_the_number_of_the_table(tmp_path):
    """Averaged by step, seeds of uneven length would end at a score that no table has."""
    results = comparison(tmp_path, ("gpt2",))
    for run, steps in zip(results["candidates"][0]["runs"], (900, 810, 990), strict=True):
        run["run"] += f"-{steps}"
        write_run(tmp_path / run["run"], run["bits_per_byte"], steps, 150.0, 1.5e10)
    page, _ = show(tmp_path, results)
    means = [r for r in page.rows if r[0] == "gpt2" and len(r) == 6 and "," in r[2]]
    assert means[-1][1:] == ["900", "3,686,400", "1.35e13", "150.0", "2.1060"]
    assert len(means) == EVALS


def test_many_evaluations_still_make_a_small_page(tmp_path):
    """A browser stands still over a megabyte of lines; the CSV has them all."""
    results = comparison(tmp_path, ("gpt2",))
    metrics = Run.open(tmp_path / "runs/gpt2-0").metrics_path
    lines = [
        {"kind": kind, "step": step, "loss": 9 / step, "bits_per_byte": 3 + 9 / step}
        for step in range(1, 3000)
        for kind in ("step", "eval")
    ]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, text = show(tmp_path, results)
    assert len(text.encode()) < 100_000
    assert len(rows_of(tmp_path / "curves.csv")) == 2999 + 2 * EVALS


def contrast(a: str, b: str) -> float:
    """Contrast of two colours, WCAG 2.2."""
    lights = []
    for colour in (a, b):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b_ = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        lights.append(0.2126 * r + 0.7152 * g + 0.0722 * b_ + 0.05)
    return max(lights) / min(lights)


def test_lines_are_seen_on_both_papers_and_without_colour():
    """Orange and yellow of the usual palette have 2:1 on white: on a projector they are gone."""
    for style in STYLES:
        assert contrast(style.light, "#ffffff") >= 3
        assert contrast(style.dark, "#14181c") >= 3
    assert len({s.dash for s in STYLES}) == len({s.shape for s in STYLES}) == len(STYLES)
    many = [Line("", [(0, 0)], i) for i in range(3 * len(STYLES))]
    assert len({(line.look, line.mark) for line in many}) == len(many)


def test_text_of_the_page_has_contrast(finished):
    _, text = show(*finished)
    papers = re.findall(r"--ink: (#\w+); --soft: (#\w+);.*?--paper: (#\w+)", text, re.DOTALL)
    assert len(papers) == 2
    for ink, soft, paper in papers:
        paper = "#ffffff" if paper == "#fff" else paper
        assert contrast(ink, paper) >= 7
        assert contrast(soft, paper) >= 4.5


@pytest.mark.parametrize(("count", "spot"), [*product((1, 5, 40), (0.0, 50.0, 100.0))])
def test_names_move_apart_and_stay_in_the_picture(count, spot):
    placed = apart([spot] * count, GAP, 0, 100)
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in placed)
    gaps = [b - a for a, b in pairwise(sorted(placed))]
    assert all(gap >= min(GAP, 100 / max(1, count - 1)) - 1e-9 for gap in gaps)


def test_tables_have_captions_and_heads(finished):
    """A screen reader says of a cell what its heads say, if they are heads."""
    page, _ = show(*finished)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table") == 6
    assert {attrs.get("scope") for tag, attrs in page.tags if tag == "th"} == {"col", "row"}
    assert all(row[0] for row in page.rows)


def test_pictures_for_elsewhere(tmp_path, monkeypatch):
    """A name with dollar signs is no formula, and one in CJK no error."""
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    results = comparison(tmp_path, ("lstm", "gpt2"), 2)
    results["candidates"][0]["name"] = "$\\frac$東京"
    write_comparison(tmp_path, results)
    for name in ("curves.png", "generation.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
