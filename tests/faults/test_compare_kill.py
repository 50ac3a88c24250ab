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
from ensue.data.pairs import PairsConfig
from ensue.training.config import TrainConfig

plan.START_SECONDS, plan.OVERHEAD, plan.LEAST_STEPS = 0.0, 4.0, 4
folder, out, task = sys.argv[1:]
small = {"num_layers": 1, "d_model": 16}
cache = folder + "/cache"
if task == "lm":
    of_task = {
        "data": DataConfig(sources=(folder + "/book.txt",), cache=cache),
        "test": (folder + "/test.txt",),
        "models": {
            "mlp": {"name": "mlp", "window": 3, **small},
            "lstm": {"name": "lstm", **small},
            "gpt2": {"name": "gpt2", "num_heads": 2, "context_length": 16, **small},
        },
    }
else:
    of_task = {
        "data": PairsConfig(sources=(folder + "/pairs.tsv",), src_tokenizer="word", cache=cache),
        "test": (folder + "/test.tsv",),
        "models": {
            "seq2seq": {"name": "seq2seq", **small},
            "seq2seq_attention": {"name": "seq2seq_attention", **small},
            "transformer": {"name": "transformer", "num_heads": 2, **small},
        },
    }
update = {"global_batch_size": 8} if task == "lm" else {"batch_tokens": 128}
train = {"threads": 1, "precision": "fp32", "compile": "no", **update}
compare(
    CompareConfig(
        task=task,
        budget="20s",
        seeds=1,
        rates=(0.5, 1.0),
        size="xs",
        train=TrainConfig(**train),
        **of_task,
    ),
    out,
)
"""


def write_data(folder: Path) -> None:
    draw = random.Random(4)
    words = "the a cat dog sat ran on far mat under tree and then again".split()
    for name, count in (("book.txt", 6000), ("test.txt", 400)):
        (folder / name).write_text(" ".join(draw.choice(words) for _ in range(count)))
    for name, count in (("pairs.tsv", 800), ("test.tsv", 40)):
        sentences = [" ".join(draw.choices(words, k=draw.randint(2, 8))) for _ in range(count)]
        rows = "".join(f"{sentence}\t{sentence.upper()}\n" for sentence in sentences)
        (folder / name).write_text(f"src\ttgt\n{rows}")


def start(folder: Path, out: Path, task: str) -> "subprocess.Popen[bytes]":
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), str(out), task],
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


def finish(folder: Path, out: Path, task: str) -> dict[str, Any]:
    code = start(folder, out, task).wait()
    assert code == 0, (folder / "log.txt").read_text(errors="replace")[-3000:]
    values: dict[str, Any] = json.loads((out / "results.json").read_text())
    return values


def numbers(values: dict[str, Any]) -> list[Any]:
    """Give what a table says, but for times."""
    scores = [f"{split}{m['key']}" for m in values["measures"] for split in ("", "test_")]
    keys = ("name", "parameters", "tokens", "flops", "rate", "by_length", *scores)
    rows = [[c[key] for key in keys] for c in values["candidates"]]
    floors = [{k: v for k, v in f.items() if k != "seconds"} for f in values["floors"]]
    return [*rows, floors, values["winner"]]


@pytest.mark.parametrize("task", ["lm", "translate"])
def test_a_comparison_killed_ten_times_gives_the_same_table(tmp_path: Path, task: str) -> None:
    """Half of the kills leave the run's own process alive, as a kill of the parent alone does."""
    write_data(tmp_path)
    draw = random.Random(4)
    out, kills = tmp_path / "killed", 0
    moments = [draw.uniform(2.0, 16.0) for _ in range(10)]
    for i, moment in enumerate(moments):
        process = start(tmp_path, out, task)
        time.sleep(moment)
        if process.poll() is None:
            kills += 1
            if i % 2:
                for pid in session(process.pid):
                    os.kill(pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
    killed = finish(tmp_path, out, task)
    assert kills >= 5, "the comparison was over before most of the kills: make it longer"
    reference = tmp_path / "reference"
    reference.mkdir()
    for name in ("comparison.json", "tokenizer.json", "tokenizer.src.json"):
        if (out / name).exists():
            (reference / name).write_bytes((out / name).read_bytes())
    assert numbers(finish(tmp_path, reference, task)) == numbers(killed)
    for run in sorted(p.parent.relative_to(out) for p in out.glob("runs/*/model.safetensors")):
        pair = [sha256_file(root / run / "model.safetensors") for root in (out, reference)]
        assert pair[0] == pair[1], run
