"""Every operation of a save fails in every way: the old content or the new is there, whole.

`Disk` stands between `os` and the code under test. A dry run counts the operations that change
the disk; then the k-th fails, for each k, in each of these ways.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ensue import files
from ensue.errors import DiskFullError, EnsueError
from ensue.files import TEMPORARY
from ensue.runs import Run
from ensue.training.checkpoint import load_tensors, newest_checkpoint, prune, save_checkpoint
from ensue.weights import load_weights, save_weights

CHANGES = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir")
FAULTS = ("kill", "torn", "power", "ENOSPC", "full", "EIO", "dead", "short")
"""What happens at the k-th operation:

kill: the process is gone before it; nothing after it happens, no clean-up either
torn: the same, but half of a write has arrived
power: the same, and every file that was not flushed loses its second half
ENOSPC, EIO: it fails, and the next one works again
full, dead: it fails, and so does every later one of its kind (only writes, on a full disk)
short: a write takes half and says so
"""


class Killed(BaseException):
    """The process is gone: no `except Exception` may see it, and no later operation may work."""


@dataclass
class Disk:
    """Counts the operations that change the disk, and breaks one."""

    fault: str = ""
    at: int = 0
    budget: int = 1 << 60
    count: int = 0
    gone: bool = False
    open_files: dict[int, str] = field(default_factory=dict)
    unflushed: set[str] = field(default_factory=set)

    @contextmanager
    def mounted(self) -> Iterator["Disk"]:
        real = {name: getattr(os, name) for name in CHANGES}
        for name in CHANGES:
            setattr(os, name, lambda *a, _name=name, **kw: self._call(real, _name, a, kw))
        try:
            yield self
        finally:
            for name in CHANGES:
                setattr(os, name, real[name])
            for fd in self.open_files:
                with suppress(OSError):
                    os.close(fd)

    def _call(self, real: dict[str, Any], name: str, args: tuple[Any, ...], kw: Any) -> Any:
        if self.gone:
            raise Killed
        self.count += 1
        if self.count == self.at or (self.count > self.at > 0 and self.fault in ("full", "dead")):
            outcome = self._break(real, name, args)
            if outcome is not None:
                return outcome
        if name == "write":
            return self._write(real, *args)
        if name == "fsync":  # only noted: a real one takes milliseconds, and proves nothing here
            self.unflushed.discard(self.open_files.get(args[0], ""))
            return None
        result = real[name](*args, **kw)
        self._follow(name, args, result)
        return result

    def _break(self, real: dict[str, Any], name: str, args: tuple[Any, ...]) -> int | None:
        """Fail, or give what a short write returns, or None where this fault does not apply."""
        match self.fault:
            case "kill" | "torn" | "power":
                if self.fault == "torn" and name == "write":
                    real["write"](args[0], args[1][: len(args[1]) // 2])
                if self.fault == "power":
                    for path in self.unflushed:
                        with suppress(FileNotFoundError):
                            os.truncate(path, os.path.getsize(path) // 2)
                self.gone = True
                raise Killed
            case "short" | "lie" if name == "write":
                written = real["write"](args[0], args[1][: max(1, len(args[1]) // 2)])
                return len(args[1]) if self.fault == "lie" else written
            case "ENOSPC" | "EIO" | "dead":
                return self._fail(real, name, args, errno.EIO if self.fault != "ENOSPC" else 28)
            case "full" if name in ("write", "mkdir"):
                return self._fail(real, name, args, errno.ENOSPC)
        return None

    def _fail(self, real: dict[str, Any], name: str, args: tuple[Any, ...], code: int) -> None:
        if name == "close":  # reports the failure, and has closed
            real["close"](*args)
            self.open_files.pop(args[0], None)
        raise OSError(code, os.strerror(code))

    def _write(self, real: dict[str, Any], fd: int, data: memoryview) -> int:
        self.unflushed.add(self.open_files[fd])
        if self.budget <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real["write"](fd, data[: self.budget])
        self.budget -= written
        return written

    def _follow(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        match name:
            case "open":
                self.open_files[result] = str(args[0])
            case "close":
                self.open_files.pop(args[0], None)
            case "rename" | "replace":
                old, new = str(args[0]), str(args[1])
                self.unflushed = {path.replace(old, new, 1) for path in self.unflushed}


# --- what is saved, and what must be there afterwards ---------------------------------------------


def tensors(step: int) -> dict[str, Tensor]:
    return {
        "model.weight": torch.full((40, 10), float(step)),
        "optimizer.step": torch.tensor(step),
        "rng.torch": torch.arange(100, dtype=torch.uint8) + step,
    }


class Checkpoints:
    """The newest whole checkpoint is the old one or the new one."""

    def prepare(self, root: Path) -> None:
        save_checkpoint(root, 1, tensors(1), {"step": 1})

    def change(self, root: Path) -> None:
        save_checkpoint(root, 2, tensors(2), {"step": 2})
        prune(root, keep=1)

    def read(self, root: Path) -> int:
        checkpoint, _ = newest_checkpoint(root)
        assert checkpoint is not None
        into = {name: torch.zeros_like(tensor) for name, tensor in tensors(0).items()}
        load_tensors(checkpoint, into)
        assert checkpoint.state == {"step": checkpoint.step}
        assert all(torch.equal(into[n], t) for n, t in tensors(checkpoint.step).items())
        return checkpoint.step

    def debris(self, root: Path) -> list[Path]:
        return list(root.glob(f"{TEMPORARY}*"))


class DamagedBefore(Checkpoints):
    """The same where a damaged checkpoint already has the new one's name."""

    def prepare(self, root: Path) -> None:
        super().prepare(root)
        path = save_checkpoint(root, 2, tensors(2), {"step": 2})
        (path / "state.json").write_text("{}")


class Weights(Checkpoints):
    """The finished weights are the old or the new ones, with their checksum."""

    def prepare(self, root: Path) -> None:
        save_weights(Run.create(root), tensors(1), {"step": "1"})

    def change(self, root: Path) -> None:
        save_weights(Run.open(root), tensors(2), {"step": "2"})

    def read(self, root: Path) -> int:
        found, metadata = load_weights(Run.open(root))
        step = int(metadata["step"])
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors(step).items())
        return step


class Plan(Checkpoints):
    """The plan is frozen whole, or the run has none yet (as after `create`)."""

    def prepare(self, root: Path) -> None:
        Run.create(root)

    def change(self, root: Path) -> None:
        Run.create(root).write_plan({"steps": 2})

    def read(self, root: Path) -> int:
        run = Run.open(root)
        return run.read_plan()["steps"] if run.plan_path.exists() else 1


class Metrics(Checkpoints):
    """Records after the step are forgotten, all or none."""

    def prepare(self, root: Path) -> None:
        for step in range(1, 5):
            Run.create(root).append_metrics({"step": step})

    def change(self, root: Path) -> None:
        Run.open(root).truncate_metrics(2)

    def read(self, root: Path) -> int:
        steps = [record["step"] for record in Run.open(root).read_metrics()]
        assert steps in ([1, 2], [1, 2, 3, 4])
        return 2 if len(steps) == 2 else 1


def fingerprint(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def attempt(change: Callable[[Path], None], root: Path, disk: Disk) -> BaseException | None:
    """Run `change` on a breaking disk; only our errors and the kill may come out."""
    try:
        with disk.mounted():
            change(root)
    except (EnsueError, Killed) as failure:
        return failure
    return None


@pytest.mark.parametrize("kind", [Checkpoints, DamagedBefore, Weights, Plan, Metrics])
@pytest.mark.parametrize("fault", FAULTS)
def test_every_operation_of_a_save_may_fail(tmp_path, kind, fault):
    """R2. The old or the new is there, whole; and the same command again succeeds."""
    subject = kind()
    assert attempt(subject.prepare, tmp_path / "0", Disk()) is None
    dry = Disk()
    shutil.copytree(tmp_path / "0", tmp_path / "dry")
    assert attempt(subject.change, tmp_path / "dry", dry) is None
    assert dry.count >= 8
    for at in range(1, dry.count + 1):
        root = tmp_path / str(at)
        shutil.copytree(tmp_path / "0", root)
        old = fingerprint(root / "step-00000001") if (root / "step-00000001").exists() else {}
        failure = attempt(subject.change, root, Disk(fault=fault, at=at))
        found = subject.read(root)
        assert found in (1, 2), (fault, at)
        if failure is None:
            assert found == 2, (fault, at)
        if found == 1 and old:
            assert fingerprint(root / "step-00000001") == old, (fault, at)
        if fault in ("ENOSPC", "full") and failure is not None:
            assert isinstance(failure, DiskFullError), (fault, at)
        if fault == "short":
            assert failure is None, (fault, at)
        if fault in ("ENOSPC", "full", "EIO"):  # what one failure leaves, if it hit the clean-up
            assert len(subject.debris(root)) <= (found == 2), (fault, at)
        assert attempt(subject.change, root, Disk()) is None
        assert subject.read(root) == 2, (fault, at)
        assert subject.debris(root) == [], (fault, at)


def test_a_write_that_lies_costs_only_the_new_checkpoint(tmp_path):
    """The manifest holds the hash of what was meant; pruning waits for the proof."""
    subject = Checkpoints()
    dry = Disk()
    subject.prepare(tmp_path / "dry")
    assert attempt(subject.change, tmp_path / "dry", dry) is None
    for at in range(1, dry.count + 1):
        subject.prepare(tmp_path / str(at))
        disk = Disk(fault="lie", at=at)
        assert attempt(subject.change, tmp_path / str(at), disk) is None
        lied = len(list((tmp_path / str(at)).iterdir())) == 2  # nothing was pruned
        assert subject.read(tmp_path / str(at)) == (1 if lied else 2)


@pytest.mark.parametrize("part", range(50))
def test_a_disk_that_fills_harms_nothing_and_says_what_it_needs(tmp_path, part, monkeypatch):
    """R4. The check beforehand is passed: others may write at the same time."""
    subject = Checkpoints()
    subject.prepare(tmp_path)
    old = fingerprint(tmp_path)
    need = sum(map(len, old.values()))
    disk = Disk(budget=need * part // 45)
    if disk.budget >= need:
        assert attempt(subject.change, tmp_path, disk) is None
        assert subject.read(tmp_path) == 2
        return
    failure = attempt(subject.change, tmp_path, disk)
    assert isinstance(failure, DiskFullError)
    assert "bytes and" in str(failure)
    assert "are free" in str(failure)
    assert fingerprint(tmp_path) == old


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    subject = Checkpoints()
    subject.prepare(tmp_path)
    old = fingerprint(tmp_path)
    monkeypatch.setattr(files, "free_bytes", lambda path: 1234)
    disk = Disk()
    failure = attempt(subject.change, tmp_path, disk)
    assert isinstance(failure, DiskFullError)
    assert "1,234 are free" in str(failure)
    assert disk.count == 0
    assert fingerprint(tmp_path) == old


@pytest.mark.parametrize("limit", [0, 1, 700, 2000])
def test_a_limit_of_the_system_on_file_size_counts_as_full(tmp_path, limit):
    resource = pytest.importorskip("resource")
    subject = Checkpoints()
    subject.prepare(tmp_path)
    old = fingerprint(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        failure = attempt(subject.change, tmp_path, Disk())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(failure, DiskFullError)
    assert fingerprint(tmp_path) == old


def test_one_flipped_bit_anywhere_is_found_and_the_file_named(tmp_path):
    """R5. Every byte of every file of the newest checkpoint, one bit each."""
    save_checkpoint(tmp_path, 1, tensors(1), {"step": 1})
    newest = save_checkpoint(tmp_path, 2, tensors(2), {"step": 2, "loss": 0.1, "name": "é"})
    for file in sorted(newest.iterdir()):
        raw = file.read_bytes()
        for position in range(0, len(raw), 3 if len(raw) > 1000 else 1):
            bad = bytearray(raw)
            bad[position] ^= 1 << (position * 5 % 8)
            file.write_bytes(bad)
            checkpoint, skipped = newest_checkpoint(tmp_path)
            assert checkpoint is not None
            assert checkpoint.step == 1, (file.name, position)
            [(path, why)] = skipped
            assert path == newest
            assert file.name in why, (file.name, position)
        file.write_bytes(raw)
    assert newest_checkpoint(tmp_path)[1] == []


def test_a_disk_that_cannot_be_read_is_our_error(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, tensors(1), {"step": 1})
    newest = save_checkpoint(tmp_path, 2, tensors(2), {"step": 2})
    real = files.hashlib.file_digest

    def broken(file, kind):
        if str(newest) in file.name and "shard" in file.name:
            raise OSError(errno.EIO, "Input/output error")
        return real(file, kind)

    monkeypatch.setattr(files.hashlib, "file_digest", broken)
    checkpoint, [(_, why)] = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert "Input/output error" in why


def kill_at_random(root: Path, times: int) -> None:
    """Kill a child that saves without pause; then look, and let the next one go on."""
    import random
    import time

    torch.set_num_threads(1)
    subject = Checkpoints()
    subject.prepare(root / "warm")
    begun = time.monotonic()
    subject.change(root / "warm")
    one_save = time.monotonic() - begun  # 5 ms to 100 ms: a busy disk's flushes
    root = root / "checkpoints"
    subject.prepare(root)
    last = 1
    for _ in range(times):
        child = os.fork()
        if child == 0:
            step = last
            while True:
                step += 1
                save_checkpoint(root, step, tensors(step), {"step": step})
                prune(root, keep=2)
        time.sleep(random.uniform(0, 3) * one_save)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = subject.read(root)
        assert found >= last, (found, last)
        last = found
    assert last > 1
    prune(root, keep=2)
    assert len(list(root.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_kill_9_at_random_moments_of_a_save(tmp_path):
    """R1's harness in small. In a process of its own: pytest's threads do not survive a fork."""
    subprocess.run([sys.executable, __file__, str(tmp_path), "30"], check=True, timeout=120)


if __name__ == "__main__":
    kill_at_random(Path(sys.argv[1]), int(sys.argv[2]))
