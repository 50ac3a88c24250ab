"""Kill a comparison again and again: the same table as if nobody had."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ensue.files import sha256_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]

SCRIPT = """
import sys
from ensue.comparison import CompareConfig, compare, plan
from ensue.data.corpus import DataConfig
from ensue.training.config import TrainConfig

plan.START_SECONDS, plan.OVERHEAD = 0.0, 4.0
folder, out = sys.argv[1:]
small = {"num_layers": 1, "d_model": 16}
compare(
    CompareConfig(
        data=DataConfig(sources=(folder + "/book.txt",), cache=folder + "/cache"),
        test=(folder + "/test.txt",),
        models={
            "mlp": {"name": "mlp", "window": 3, **small},
            "lstm": {"name": "lstm", **small},
            "gpt2": {"name": "gpt2", "num_heads": 2, "context_length": 16, **small},
        },
        budget="20s",
        seeds=1,
        rates=(0.5, 1.0),
        size="xs",
        train=TrainConfig(threads=1, precision="fp32", compile="no", global_batch_size=8),
    ),
    out,
)
"""


def start(folder: Path, out: Path) -> "subprocess.Popen[bytes]":
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), str(out)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def session(leader: int) -> list[int]:
    """Give the processes of a session: the comparison's, and that of the run it is at."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            if int(stat.read_text().rpartition(")")[2].split()[3]) == leader:
                found.append(int(stat.parent.name))
    return found


def finish(folder: Path, out: Path) -> dict[str, Any]:
    code = start(folder, out).wait()
    assert code == 0, (folder / "log.txt").read_text(errors="replace")[-3000:]
    values: dict[str, Any] = json.loads((out / "results.json").read_text())
    return values


def numbers(values: dict[str, Any]) -> list[Any]:
    """Give what a table says, but for times."""
    keys = ("name", "parameters", "tokens", "flops", "bits_per_byte", "test_bits_per_byte", "rate")
    rows = [[c[key] for key in keys] for c in values["candidates"]]
    return [*rows, values["floor"]["bits_per_byte"], values["winner"]]


def test_a_comparison_killed_ten_times_gives_the_same_table(tmp_path: Path) -> None:
    """Half of the kills leave the run's own process alive, as a kill of the parent alone does."""
    draw = random.Random(4)
    words = "the a cat dog sat ran on far mat under tree and then again".split()
    for name, count in (("book.txt", 6000), ("test.txt", 400)):
        (tmp_path / name).write_text(" ".join(draw.choice(words) for _ in range(count)))
    out, kills = tmp_path / "killed", 0
    moments = [draw.uniform(2.0, 16.0) for _ in range(10)]
    for i, moment in enumerate(moments):
        process = start(tmp_path, out)
        time.sleep(moment)
        if process.poll() is None:
            kills += 1
            if i % 2:
                for pid in session(process.pid):
                    os.kill(pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
    killed = finish(tmp_path, out)
    assert kills >= 5, "the comparison was over before most of the kills: make it longer"
    reference = tmp_path / "reference"
    reference.mkdir()
    for name in ("comparison.json", "tokenizer.json"):
        (reference / name).write_bytes((out / name).read_bytes())
    assert numbers(finish(tmp_path, reference)) == numbers(killed)
    for run in sorted(p.parent.relative_to(out) for p in out.glob("runs/*/model.safetensors")):
        pair = [sha256_file(root / run / "model.safetensors") for root in (out, reference)]
        assert pair[0] == pair[1], run
