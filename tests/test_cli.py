"""The command line as a person meets it: verbs, messages, exit codes, nothing lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ensue.cli import VERBS, main

QUICK = [
    *("--steps", "4", "--size", "xs", "--train.threads", "1", "--train.precision", "fp32"),
    *("--train.compile", "no", "--train.global-batch-size", "4", "--model.d-model", "16"),
    *("--model.num-layers", "1", "--model.num-heads", "2", "--model.context-length", "16"),
]
LINES = "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(LINES * 200, encoding="utf-8")
    return path


@pytest.fixture
def trained(book: Path, tmp_path: Path) -> Path:
    run = tmp_path / "run"
    assert main(["train", str(book), "--out", str(run), *QUICK]) == 0
    return run


def test_help_and_import_need_no_torch() -> None:
    """Torch takes 1.5 s to import: help and tab completion must not wait for it."""
    code = (
        "import sys, ensue, ensue.cli; ensue.cli.main(['--help']);"
        "sys.exit('torch' in sys.modules or 'tyro' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in VERBS:
        assert f"\n  {verb} " in done.stdout


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: ensue {verb}" in capsys.readouterr().out


def test_train_generate_evaluate(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The main path: one run folder serves all other verbs."""
    for part in ("config.toml", "plan.json", "model.safetensors", "report.html", "README.md"):
        assert (trained / part).exists()
    capsys.readouterr()
    assert main(["generate", str(trained), "The quick", "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("The quick")
    assert main(["generate", str(trained), "The", "A", "--json", "--num-samples", "2"]) == 0
    samples = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted((s["prompt"], s["sample"]) for s in samples) == [
        ("A", 0),
        ("A", 1),
        ("The", 0),
        ("The", 1),
    ]
    assert main(["evaluate", str(trained), "--json", "--floor"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert 0 < score["bits_per_byte"] < 10
    assert 0 < score["floor_bits_per_byte"] < 8


def test_the_same_command_again_finds_the_finished_run(
    trained: Path, book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "model.safetensors").read_bytes()
    assert main(["train", str(book), "--out", str(trained), *QUICK]) == 0
    assert (trained / "model.safetensors").read_bytes() == before
    assert "already trained" in capsys.readouterr().err


def test_a_changed_configuration_is_refused_with_the_difference(
    trained: Path, book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Silently going on with other settings would make a run that nobody can repeat."""
    assert main(["train", str(book), "--out", str(trained), *QUICK, "--seed", "1"]) == 4
    assert "seed: 0 -> 1" in capsys.readouterr().err


def test_a_recipe_and_an_override(book: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f"""
        steps = 3
        size = "xs"
        [data]
        sources = [{json.dumps(str(book))}]
        tokenizer = "char"
        [model]
        name = "lstm"
        d_model = 16
        num_layers = 1
        context_length = 16
        [train]
        threads = 1
        precision = "fp32"
        compile = "no"
        global_batch_size = 4
        """,
        encoding="utf-8",
    )
    run = tmp_path / "run"
    assert main(["train", str(recipe), "--out", str(run), "--model.d-model", "8"]) == 0
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    text = json.dumps(plan)
    assert '"d_model": 8' in text
    assert '"name": "lstm"' in text
    assert '"tokenizer": "char"' in text


BAD = [
    (["trian"], 2, "did you mean 'train'"),
    (["train"], 2, "nothing to read"),
    (["train", "BOOK", "--model", "gtp2"], 2, "did you mean 'gpt2'"),
    (["train", "BOOK", "--budget", "soon"], 2, "cannot read 'soon'"),
    (["train", "BOOK", "--budget", "1min", "--steps", "3"], 2, "not both"),
    (["train", "BOOK", "--size", "xxl"], 2, "unknown value 'xxl'"),
    (["train", "BOOK", "--tokenizer", "bytes"], 2, "did you mean 'byte'"),
    (["train", "BOOK", "--train.optimizer", "adam"], 2, "did you mean 'adamw'"),
    (["train", "no/such/file.txt"], 3, "no such file"),
    (["train", "recipe.toml"], 2, "no such file"),
    (["compare", "recipe.toml"], 2, "a recipe of one model"),
    (["generate", "no-run", "hi"], 4, "there is no run"),
    (["evaluate", "no-run"], 4, "there is no run"),
    (["data", "get", "shakspeare"], 2, "did you mean 'shakespeare'"),
    (["data", "fetch"], 2, "knows: list, get"),
]


@pytest.mark.parametrize(("argv", "code", "words"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_mistakes_are_answered(
    argv: list[str], code: int, words: str, book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mistake: its own exit code, what was wrong, and no traceback."""
    assert main([str(book) if a == "BOOK" else a for a in argv]) == code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_misspelt_flag_names_the_nearest(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", str(book), "--buget", "1min"])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert "--budget" in captured.out + captured.err


def test_a_misspelt_key_in_a_recipe_names_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[train]\nleraning_rate = 1\nlrr = 2\n", encoding="utf-8")
    assert main(["train", str(recipe)]) == 2
    assert "unknown key 'leraning_rate'" in capsys.readouterr().err


def test_a_prompt_longer_than_the_context(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a silent crop: refused, or slid when asked, and said."""
    long = "fox " * 40
    assert main(["generate", str(trained), long]) == 3
    assert "slide" in capsys.readouterr().err
    command = ["generate", str(trained), long, "--past-context", "slide", "--max-new-tokens", "3"]
    assert main(command) == 0
    assert "longer than the context" in capsys.readouterr().err


def test_a_budget_too_small_says_what_would_do(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "small"
    assert main(["train", str(book), "--out", str(run), "--budget", "0.5s", "--size", "l"]) == 2
    error = capsys.readouterr().err
    assert "too small" in error
    assert "--budget" in error


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2", "124,439,808"),
        ("gpt2-medium", "354,823,168"),
        ("gpt2-large", "774,030,080"),
        ("gpt2-xl", "1,557,611,200"),
    ],
)
def test_plan_shows_the_published_counts(
    name: str, parameters: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", name]) == 0
    assert parameters in capsys.readouterr().out


def test_plan_of_a_text_spends_nothing(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows decoded rows and costs, and leaves no run behind."""
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(book), *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "parameters" in shown
    assert "row 0" in shown
    assert not (tmp_path / "runs").exists()


def test_lineage_is_the_lectures_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("lstm") < shown.index("gpt2")
    assert "grows with" in shown


def test_an_unknown_model_names_the_nearest(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(book), "--model", "gtp2"]) == 2
    assert "did you mean 'gpt2'?" in capsys.readouterr().err


def test_a_text_of_one_line_is_trained_on(tmp_path: Path) -> None:
    line = tmp_path / "line.txt"
    line.write_text(LINES.strip() * 100)
    assert main(["train", str(line), "--out", str(tmp_path / "run"), *QUICK]) == 0


OWN = Path(__file__).parent / "comparison" / "gru.py"


def test_a_model_of_ones_own_is_trained_and_generates_only_when_its_file_is_named(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run folder from elsewhere must not start code that happens to lie here."""
    run = str(tmp_path / "run")
    quick = [flag for flag in QUICK[:10]]
    command = ["train", str(book), "--model", f"{OWN}:GRU", "--out", run, *quick]
    done = subprocess.run(
        [sys.executable, "-m", "ensue.cli", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    generate = [sys.executable, "-m", "ensue.cli", "generate", run, "The"]
    done = subprocess.run(generate, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"--code {OWN}" in done.stderr
    done = subprocess.run(
        [*generate, "--code", str(OWN)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The")


def test_compare_prints_a_table_and_leaves_the_winner(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensue.comparison.plan.START_SECONDS", 0.0)
    monkeypatch.setattr("ensue.comparison.plan.OVERHEAD", 4.0)
    monkeypatch.setattr("ensue.comparison.plan.LEAST_STEPS", 2)  # on a slow machine too
    out = tmp_path / "out"
    words = ["--models", "mlp,rnn", "--equal", "flops", "--budget", "8s", "--seeds", "1"]
    words += ["--rates", "1", *QUICK[2:10]]
    assert main(["compare", str(book), *words, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "-gram counts" in printed.out
    assert "is best on valid" in printed.out or "No network beats" in printed.out
    assert "report.html" in printed.err
    assert main(["generate", str(out / "winner"), "The", "--max-new-tokens", "3"]) == 0


def test_compare_refuses_a_model_that_is_there_twice(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(book), "--models", "mlp,mlp"]) == 2
    assert "twice" in capsys.readouterr().err
