"""The demo's own data: the standard library that runs these tests, and dates that it makes."""

import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from ensue.commands.demo import (
    DemoArgs,
    compare_dates,
    run_demo,
    show_dates,
    source_files,
)
from ensue.console import Console
from ensue.errors import UsageError


def test_the_demo_reads_the_library_and_measures(tmp_path: Path) -> None:
    """The budget is too small on purpose: reading, splitting and tokenising are what is tested."""
    with pytest.raises(UsageError, match="too small"):
        run_demo(DemoArgs(budget="1s", out=str(tmp_path / "demo")), Console())


def test_the_demo_makes_the_dates_and_measures(tmp_path: Path) -> None:
    """Again with too small a budget; nothing is downloaded, and no extra is needed."""
    args = DemoArgs(dates_budget="1s", out=str(tmp_path / "demo"))
    with pytest.raises(UsageError, match="too small"):
        compare_dates(args, Console())
    assert (tmp_path / "demo-dates" / "tokenizer.json").exists()


def test_what_is_wrong_in_the_shown_dates_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    test = tmp_path / "test.tsv"
    test.write_text(
        "src\ttgt\tlanguage\tmonth\n"
        "1. 5. 1998\t1998-05-01\tcs\tMay\n"
        "2. 5. 1998\t1998-05-02\tcs\tMay\n"
    )
    always = SimpleNamespace(translate=lambda sources, search: ["1998-05-01" for _ in sources])
    monkeypatch.setattr("ensue.api.load_translator", lambda run: always)
    show_dates(tmp_path, test)
    assert capsys.readouterr().out.splitlines() == [
        "1998-05-01  <-  1. 5. 1998",
        "1998-05-01  <-  2. 5. 1998   (wrong: it is 1998-05-02)",
    ]


def test_a_megabyte_of_the_librarys_own_modules_is_read() -> None:
    files = source_files(Path(sysconfig.get_paths()["stdlib"]))
    assert 500_000 < sum(f.stat().st_size for f in files) < 3_000_000
    assert not any({"test", "site-packages"} & set(f.parts[-3:]) for f in files)
