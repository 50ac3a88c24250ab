"""``ensue demo`` as a newcomer starts it: to its end, in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ensue.commands.demo import SHOWN, TEXT_MODELS
from ensue.models import steps_for
from ensue.runs import Run

SECONDS = 24
"""Of each training, as is the default: in much less a slow machine makes too few updates."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_comes_to_its_end(tmp_path: Path) -> None:
    """Nothing else runs both halves: a winner, what it writes, where attention looks, the picture.

    So short a training may be beaten by counting, and is told so: what is said, not how good.
    """
    out = tmp_path / "demo"
    words = ["demo", "--budget", f"{SECONDS}s", "--dates-budget", f"{SECONDS}s", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "ensue.cli", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=1100,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    winners = re.findall(r"(\w+) is best on valid: ", done.stdout)
    assert [name in models for name, models in zip(winners, halves(), strict=True)] == [True] * 2
    for folder, winner in zip((out, tmp_path / "demo-dates"), winners, strict=True):
        assert Run.open(folder / "runs" / f"{winner}-0").weights_path.exists()
        assert (folder / "report.html").exists()
    assert done.stdout.count("\n---\n") == 2  # the prompts, continued
    assert len(re.findall(r"^.*  <-  .*$", done.stdout, re.MULTILINE)) == SHOWN
    assert re.search(r"^writes +looks most at +bits ", done.stdout, re.MULTILINE)
    assert re.search(
        r"^\d+\.\d% of [\d,]+ tokens of held-out dates look at", done.stdout, re.MULTILINE
    )
    (page,) = re.findall(r"where it looks: (.*)", said)
    assert Path(page.strip()).exists()
    (picture,) = re.findall(r"quality by the length of the source: (.*)", said)
    ElementTree.parse(picture.strip())
    report = (tmp_path / "demo-dates" / "report.html").read_text("utf-8")
    assert "The bottleneck" in report


def halves() -> list[set[str]]:
    """Name the candidates of each half."""
    return [set(TEXT_MODELS), {step.name for step in steps_for("translate")}]
