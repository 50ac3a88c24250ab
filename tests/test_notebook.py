"""The lecture as a notebook: it runs from end to end, offline, and leaves torch as it is."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cells import code_cells

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "lecture.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
FIGURES = 16


def run_notebook(folder: Path, timeout: int, **more: str) -> str:
    """Run it in an empty folder and a process of its own; give what it printed."""
    for package in ("sklearn", "PIL", "babel"):
        pytest.importorskip(package)
    for name in ("work", "figures"):
        (folder / name).mkdir()
    words = [str(ROOT / "tests" / "cells.py"), str(NOTEBOOK), str(folder / "figures")]
    done = subprocess.run(
        [sys.executable, "-W", "error", *words],
        cwd=folder / "work",
        env={**os.environ, "PIP_NO_INDEX": "1", **more},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = sorted((folder / "figures").iterdir())
    assert len(figures) == FIGURES
    for figure in figures:
        assert ElementTree.parse(figure).getroot().tag.endswith("svg")
    return done.stdout


def test_every_cell_runs_in_order(tmp_path: Path) -> None:
    """With trainings of three updates: a renamed function must not stay in the notebook."""
    said = run_notebook(tmp_path, 280, ENSUE_LECTURE_SHARE="0")
    assert "tensor([[ 3, -1],\n        [ 3, -1]])" in said  # the lecture's map, at stride 3


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_as_a_class_runs_it(tmp_path: Path) -> None:
    said = run_notebook(tmp_path, 1400, ENSUE_LECTURE_SHARE="1")
    assert "def parse(self, text):" in said


def test_it_is_kept_without_outputs() -> None:
    """A picture in a notebook is a megabyte in every commit, and what it shows may be data."""
    for cell in CELLS:
        assert cell["cell_type"] == "markdown" or not cell["outputs"]
        assert cell.get("execution_count") is None
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)


def test_every_link_leads_somewhere() -> None:
    texts = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown"]
    links = re.findall(r"\]\(([^)#]+)\)", "\n".join(texts))
    assert links
    for link in links:
        assert (NOTEBOOK.parent / link).exists(), link


def test_installing_leaves_a_hosted_notebooks_torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary install may bring another torch, for another CUDA, in place of what is there."""
    absent, ran = {"ensue", "tyro", "jaxtyping", "sklearn"}, []

    def run(command: list[str], **_: object) -> None:
        ran.append(command[1:])
        absent.discard("ensue")

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else found(name)
    )
    monkeypatch.setattr(subprocess, "run", run)
    first = code_cells(NOTEBOOK)[0].replace('ENSUE = ""', 'ENSUE = "../ensue"')
    exec(compile(first, "cell 0", "exec"), {})
    pip = ["-m", "pip", "install", "-q"]
    assert ran == [
        [*pip, "--no-deps", "../ensue"],
        [*pip, "tyro"],
        [*pip, "jaxtyping"],
        [*pip, "scikit-learn"],
    ]
