"""The run folder and its files: what is refused, and that nothing is ever half there."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ensue import files
from ensue.errors import DataError, DiskFullError, EnsueError, RunError, UsageError
from ensue.runs import NoRunError, Run, new_run_path, newest_run, stem_of
from ensue.weights import load_weights, read_header, save_weights


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs" / "book-001")


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def refused(read: Callable[[Any], object], what: object) -> bool:
    """Say whether reading ends in our error; quicker than pytest.raises in a long loop."""
    try:
        read(what)
    except RunError:
        return True
    return False


# --- files ----------------------------------------------------------------------------------------


def test_write_atomic_leaves_the_old_file_and_no_debris_when_the_disk_fills(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    files.write_atomic(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFullError, match=r"needs 3 bytes and [\d,]+ are free"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"plan.json"}


def test_other_errors_of_the_system_are_ours_too(tmp_path):
    with pytest.raises(EnsueError, match="No such file or directory"):
        files.write_atomic(tmp_path / "nowhere" / "a", b"")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a": NaN}',
        b"[1e999]",
        b"\xff\xfe{}",
        b"1" * 5000,
        b'"' + b"a" * 2000,
    ],
    ids=["empty", "torn", "deep", "nan", "infinite", "utf16", "digits", "long"],
)
def test_json_from_elsewhere_is_refused_with_our_error(tmp_path, content):
    """`json.loads` takes NaN, and recurses until Python itself gives up."""
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json"):
        files.read_json(path, max_bytes=1000 if len(content) < 5000 else 200_000, error=DataError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_reading_never_waits_on_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="not a file"):
        files.read_json(tmp_path / "pipe")


def test_a_seal_finds_every_flipped_bit(tmp_path):
    path = tmp_path / "plan.json"
    raw = files.seal({"lr": 3e-4, "steps": 200, "name": "ä"})
    path.write_bytes(raw)
    assert files.read_sealed(path) == {"lr": 3e-4, "steps": 200, "name": "ä"}
    for position in range(len(raw)):
        for bit in range(8):
            bad = bytearray(raw)
            bad[position] ^= 1 << bit
            path.write_bytes(bad)
            assert refused(files.read_sealed, path), (position, bit)


# --- the folder -----------------------------------------------------------------------------------


def test_create_opens_a_run_again_and_refuses_what_is_not_one(tmp_path, run):
    assert Run.create(run.path) == run
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="not empty and is not a run"):
        Run.create(tmp_path / "photos")
    with pytest.raises(UsageError, match="is a file"):
        Run.create(tmp_path / "photos" / "cat.jpg")


def test_create_goes_on_where_it_was_killed_before_the_marker(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"{files.TEMPORARY}run.json-1").write_bytes(b"{")
    assert names(Run.create(tmp_path / "a").path) == {"run.json"}


def test_open_says_what_is_wrong(tmp_path, run):
    with pytest.raises(RunError, match=r"there is no run .*book-01; did you mean 'book-001'"):
        Run.open(run.path.with_name("book-01"))
    with pytest.raises(RunError, match=r"not a run; it holds these: book-001"):
        Run.open(run.path.parent)
    with pytest.raises(RunError, match="is a file"):
        Run.open(run.path / "run.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="is not a run"):
        Run.open(tmp_path / "empty")


def test_what_the_system_will_not_look_at_is_refused_with_our_error(tmp_path, monkeypatch):
    """A text typed in the place of a run is too long a name: every command but one crashed."""
    long = "a" * 300
    for path in (long, tmp_path / long, tmp_path / long / "run"):
        with pytest.raises(NoRunError, match=r"there is no run .* …: the name is too long"):
            Run.open(path)
    with pytest.raises(EnsueError, match="cannot write"):
        Run.create(tmp_path / long)

    def denied(self: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(RunError, match="run cannot be opened as a run: Permission denied"):
        Run.open("run")


def test_a_half_copied_run_says_which_part_lacks(run):
    run.config_path.write_text("")
    run.tokenizer_path.write_text("{}")
    run.write_plan({"steps": 1})
    assert Run.open(run.path).read_plan() == {"steps": 1}
    run.tokenizer_path.unlink()
    with pytest.raises(RunError, match=r"half-copied: it lacks tokenizer\.json"):
        Run.open(run.path)
    (run.path / "run.json").unlink()
    with pytest.raises(RunError, match=r"half-copied: it lacks run\.json"):
        Run.open(run.path)


def test_a_run_of_a_newer_version_is_refused(run):
    (run.path / "run.json").write_text('{"format": 2, "kind": "ensue run", "shape": "new"}')
    with pytest.raises(RunError, match=r"newer version") as failure:
        Run.open(run.path)
    assert "pip install -U ensue" in failure.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "kind": "ensue run", "parts": 3}'])
def test_a_damaged_marker_is_refused(run, text):
    (run.path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        Run.open(run.path)


def test_a_marker_cannot_point_outside_the_run(run):
    marker = {"format": 1, "kind": "ensue run", "parts": ["../../secret"]}
    (run.path / "run.json").write_text(json.dumps(marker))
    with pytest.raises(RunError, match="damaged"):
        Run.open(run.path)


def test_a_damaged_plan_says_what_to_do(run):
    run.write_plan({"lr": 3e-4})
    run.plan_path.write_text(run.plan_path.read_text().replace("0.0003", "0.0005"))
    with pytest.raises(RunError, match=r"plan\.json was changed") as failure:
        run.read_plan()
    assert "--out RUN" in failure.value.hint


def test_the_newest_run_is_the_one_worked_on_last(run):
    other = Run.create(run.path.with_name("book-002"))
    for i, mark in enumerate((run.path / "run.json", other.path / "run.json")):
        os.utime(mark, (1000 + i, 1000 + i))
    assert newest_run(run.path.parent) == other
    run.append_metrics({"step": 1})
    assert newest_run(run.path.parent) == run
    assert new_run_path("book", run.path.parent) == run.path.with_name("book-003")
    with pytest.raises(RunError, match="there is no run in") as failure:
        newest_run(run.path / "nothing")
    assert "ensue train" in failure.value.hint


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_go_back_to_the_step_of_the_checkpoint(run):
    for step in range(5):
        run.append_metrics({"step": step, "loss": 0.1 * step})
    run.append_metrics({"note": "no step"})
    with run.metrics_path.open("ab") as file:
        file.write(b'\0\0\n{"step": 6, "loss"')  # what a power cut leaves
    assert [r.get("step") for r in run.read_metrics()] == [0, 1, 2, 3, 4, None]
    run.truncate_metrics(2)
    run.append_metrics({"step": 3, "loss": math.nan})
    run.sync_metrics()
    assert run.read_metrics() == [
        {"step": 0, "loss": 0.0},
        {"step": 1, "loss": 0.1},
        {"step": 2, "loss": 0.2},
        {"note": "no step"},
        {"step": 3, "loss": None},
    ]
    assert run.metrics_path.read_bytes().count(b"\n") == 5


def test_a_full_disk_leaves_no_torn_record(run):
    resource = pytest.importorskip("resource")
    run.append_metrics({"step": 0})
    size = run.metrics_path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4, hard))
    try:
        with pytest.raises(DiskFullError):
            run.append_metrics({"step": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.metrics_path.stat().st_size == size


# --- lock -----------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from ensue.runs import Run
with Run.open(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_trains_a_run_and_a_killed_one_lets_go(run):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"pid {holder.pid}"), run.lock():
            pass
        os.kill(holder.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        holder.wait()
        with run.lock():
            pass


def test_the_same_process_cannot_train_a_run_twice(run):
    with run.lock(), pytest.raises(RunError, match="being trained"), run.lock():
        pass
    with run.lock():  # let go after a failure too
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_data_worker_that_outlives_a_killed_parent_does_not_keep_the_lock(run):
    code = HOLDER.replace("import sys, time", "import os, sys, time").replace(
        '    print("held"',
        '    if os.fork() == 0:\n        time.sleep(3)\n        os._exit(0)\n    print("held"',
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    begun = time.monotonic()
    holder.wait()
    with run.lock():
        assert time.monotonic() - begun < 2
    holder.stdout.close()


def test_the_lock_holder_clears_what_a_killed_process_left(run):
    (run.path / f"{files.TEMPORARY}plan.json-7").write_bytes(b"{")
    with run.lock():
        assert names(run.path) == {"run.json", "run.lock"}


# --- weights --------------------------------------------------------------------------------------


def some_tensors() -> dict[str, torch.Tensor]:
    return {
        "block.0.weight": torch.randn(3, 5),
        "bf": torch.randn(7).bfloat16(),
        "count": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False, True]),
        "turned": torch.randn(4, 2).t(),
    }


def test_weights_come_back_and_any_reader_of_the_format_reads_them(run):
    tensors = some_tensors()
    save_weights(run, tensors, {"model": "gpt2"})
    loaded, metadata = load_weights(run)
    assert metadata == {"model": "gpt2"}
    for theirs in (loaded, load_file(run.weights_path)):
        assert theirs.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert theirs[name].dtype == tensor.dtype
            assert torch.equal(theirs[name], tensor)
    assert read_header(run.weights_path).parameters == sum(t.numel() for t in tensors.values())
    run.weights_path.unlink()
    with pytest.raises(RunError, match=r"lacks model\.safetensors"):
        Run.open(run.path)


def test_one_flipped_bit_in_the_weights_is_found(run):
    save_weights(run, some_tensors())
    raw = run.weights_path.read_bytes()
    for position in range(len(raw)):
        bad = bytearray(raw)
        bad[position] ^= 1 << position % 8
        run.weights_path.write_bytes(bad)
        assert refused(load_weights, run), position


def test_weights_of_any_length_but_their_own_are_refused(run):
    save_weights(run, some_tensors())
    raw = run.weights_path.read_bytes()
    for length in range(0, len(raw), 7):
        run.weights_path.write_bytes(raw[:length])
        with pytest.raises(RunError, match=r"model\.safetensors"):
            load_weights(run)
    run.weights_path.write_bytes(raw + b"\0")
    with pytest.raises(RunError, match="bytes long"):
        load_weights(run)


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": None},
        {"a": ENTRY | {"dtype": "F128"}},
        {"a": ENTRY | {"shape": [2**62, 4]}},
        {"a": ENTRY | {"shape": [-1]}},
        {"a": ENTRY | {"shape": [True]}},
        {"a": ENTRY | {"shape": [0, 2**63], "data_offsets": [0, 0]}},
        {"a": ENTRY | {"data_offsets": [4, 0]}},
        {"a": ENTRY | {"data_offsets": [0, 2**60], "shape": [2**58]}},
        {"a": ENTRY, "b": ENTRY},
        {"a": ENTRY | {"data_offsets": [4, 8]}},
        {"__metadata__": {"a": 1}, "a": ENTRY},
        {"__metadata__": [], "a": ENTRY},
    ],
)
def test_a_crafted_header_is_refused_before_anything_is_allocated(run, header):
    raw = json.dumps(header).encode()
    run.weights_path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(4))
    with pytest.raises(RunError, match="damaged"):
        load_weights(run)


def test_a_full_disk_does_not_harm_the_weights_that_were_there(run, monkeypatch):
    save_weights(run, {"a": torch.ones(1000)})
    monkeypatch.setattr(files, "free_bytes", lambda path: 3999)
    with pytest.raises(DiskFullError, match="needs 4,000 bytes and 3,999 are free"):
        save_weights(run, {"a": torch.zeros(1000)})
    assert torch.equal(load_weights(run)[0]["a"], torch.ones(1000))


def test_torch_is_not_imported_with_the_run_folder():
    """`import ensue` and `ensue --help` must answer at once."""
    code = "import ensue.runs, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("book.txt", "book"),
        ("-", ""),
        ("", ""),
        ("multi30k/train.de.gz", "multi30k"),
        ("/cache/sets/dates/train.tsv", "dates"),
        ("train.de", "train"),
        ("texts/", "texts"),
    ],
)
def test_a_run_is_called_after_its_data(source: str, stem: str) -> None:
    """All public sets have a file called train: their runs had one name."""
    assert stem_of(source) == stem
