"""The demo's own text: the standard library that runs these tests."""

import sysconfig
from pathlib import Path

import pytest

from ensue.commands.demo import DemoArgs, run_demo, source_files
from ensue.console import Console
from ensue.errors import UsageError


def test_the_demo_reads_the_library_and_measures(tmp_path: Path) -> None:
    """An empty ``__init__.py`` among the files must not end the demo: it did.

    The budget is too small on purpose: reading, splitting and tokenising are what is tested.
    """
    with pytest.raises(UsageError, match="too small"):
        run_demo(DemoArgs(budget="1s", out=str(tmp_path / "demo")), Console())


def test_no_tests_and_no_installed_packages() -> None:
    files = source_files(Path(sysconfig.get_paths()["stdlib"]))
    assert len(files) > 100
    assert not any({"test", "site-packages"} & set(f.parts[-3:]) for f in files)
