"""The run folder: the unit that people keep, move, share and serve.

    config.toml         what was asked for, fully resolved
    plan.json           what was chosen and measured before step 0, and fitted to the clock since
    tokenizer.json      the tokenizer, where there is text
    model.safetensors   the finished weights (`ensue.weights`)
    metrics.jsonl       one line per record
    checkpoints/        what a resume needs (`ensue.training.checkpoint`)
    report.html         curve and samples
    README.md           the model card
    looks.json          how often it was scored on which data, where it names classes
    run.json            says that this is a run, of which format, and which parts are complete

Every part is written here or through `ensue.files`, so that none is ever half there.
"""

import contextlib
import errno
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensue.errors import EnsueError, RunError, UsageError, nearest
from ensue.files import (
    fsync_dir,
    parse_json,
    read_json,
    read_sealed,
    remove_temporaries,
    seal,
    write_atomic,
    write_json,
    writing,
)

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FORMAT = 1
KIND = "ensue run"
LOOKS = "looks.json"
PLANNED_PARTS = ("config.toml", "tokenizer.json", "plan.json")

# Record locks belong to the process: a second lock by the same process would succeed, and lose
# both at the first close. So this process remembers its own.
_held: set[Path] = set()


@dataclass(frozen=True)
class Run:
    """A run folder. Open an existing one with `open`, make one with `create`."""

    path: Path
    """The folder."""

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.toml"

    @property
    def plan_path(self) -> Path:
        """The frozen plan."""
        return self.path / "plan.json"

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer."""
        return self.path / "tokenizer.json"

    @property
    def weights_path(self) -> Path:
        """The finished weights."""
        return self.path / "model.safetensors"

    @property
    def metrics_path(self) -> Path:
        """The records of training and validation."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints_dir(self) -> Path:
        """What a resume needs."""
        return self.path / "checkpoints"

    @property
    def report_path(self) -> Path:
        """The report, one self-contained page."""
        return self.path / "report.html"

    @property
    def card_path(self) -> Path:
        """The model card."""
        return self.path / "README.md"

    @property
    def _marker(self) -> Path:
        return self.path / "run.json"

    @classmethod
    def create(cls, path: Path | str) -> "Run":
        """Make the folder, or open it when it is a run already.

        Raises:
            UsageError: The folder holds something else.
            RunError: It is a run that cannot be used.
            EnsueError: The system refuses it.
        """
        run = cls(Path(path))
        with writing(run.path, 0):  # even a look at it fails where its name is too long
            if cls.exists(run.path):
                return cls.open(run.path)
            if run.path.exists() and not run.path.is_dir():
                raise UsageError(f"{run.path} is a file", "Name a folder for the run: --out RUN")
            if run.path.is_dir():
                remove_temporaries(run.path)  # killed before the marker was in place
                if any(run.path.iterdir()):
                    raise UsageError(
                        f"{run.path} is not empty and is not a run",
                        "Name another folder for the run: --out RUN",
                    )
            run.path.mkdir(parents=True, exist_ok=True)
            fsync_dir(run.path.parent)
        write_json(run._marker, {"format": FORMAT, "kind": KIND, "parts": []})
        return run

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open an existing run.

        Raises:
            NoRunError: There is none of that name.
            RunError: A file, not a run, half-copied, from a newer version, or not to be read.
        """
        run = cls(Path(path))
        try:
            run._check()
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # a text in the place of the run
                raise NoRunError(
                    f"there is no run {str(path)[:60]} …: the name is too long for a folder",
                    "The run comes first, then the text, each in quotes.",
                ) from None
            raise RunError(
                f"{path} cannot be opened as a run: {error.strerror}", "Check its permissions."
            ) from None
        return run

    def _check(self) -> None:
        """Refuse what is no whole run."""
        if not self.path.exists():
            siblings = [found.path.name for found in _runs_in(self.path.parent)]
            raise NoRunError(
                f"there is no run {self.path}{nearest(self.path.name, siblings)}",
                "Train one first: ensue train book.txt",
            )
        if not self.path.is_dir():
            raise RunError(f"{self.path} is a file; a run is a folder")
        missing = [part for part in self._read_parts() if not (self.path / part).exists()]
        if missing:
            raise RunError(
                f"{self.path} is half-copied: it lacks {', '.join(missing)}",
                "Copy the whole folder again from where it was trained.",
            )

    @staticmethod
    def exists(path: Path | str) -> bool:
        """Say whether a folder claims to be a run, sound or not."""
        return (Path(path) / "run.json").exists()

    def _read_parts(self) -> list[str]:
        if not self._marker.exists():
            raise RunError(f"{self.path} {_say_what_it_is(self)}")
        marker = read_json(self._marker, max_bytes=1 << 16)
        match marker:
            case {"kind": str(kind), "format": int(version)} if kind == KIND and version > FORMAT:
                raise RunError(
                    f"{self.path} was written by a newer version of ensue"
                    f" (format {version}; this one reads up to {FORMAT})",
                    "Upgrade with: pip install -U ensue",
                )
            case {"kind": str(kind), "format": int(), "parts": list(parts)} if kind == KIND and all(
                isinstance(part, str) and Path(part).name == part for part in parts
            ):
                return parts
        raise RunError(
            f"{self._marker} is damaged",
            f'Put this into it: {{"format": {FORMAT}, "kind": "{KIND}", "parts": []}}',
        )

    def add_parts(self, *names: str) -> None:
        """Record parts that are complete: without them the folder counts as half-copied."""
        parts = self._read_parts()
        if set(names) - set(parts):
            marker = {"format": FORMAT, "kind": KIND, "parts": sorted({*parts, *names})}
            write_json(self._marker, marker)

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Freeze the plan, on the disk before this returns; write config and tokenizer first.

        Raises:
            DiskFullError: Nothing was changed.
        """
        write_atomic(self.plan_path, seal(plan))
        self.add_parts(*(part for part in PLANNED_PARTS if (self.path / part).exists()))

    def read_plan(self) -> dict[str, Any]:
        """Read the frozen plan.

        Raises:
            RunError: There is none, or it is not what was frozen.
        """
        try:
            return read_sealed(self.plan_path)
        except RunError as error:
            raise RunError(
                error.what,
                "Copy plan.json back from where the run was trained, or train anew into another"
                " folder with --out RUN. A resume must repeat the plan exactly.",
            ) from error

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append one record: one system call, so that a killed process leaves whole lines.

        About 20 µs. What is not finite is written as null: NaN is not JSON.

        Raises:
            DiskFullError: The file is as it was.
        """
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        line = (json.dumps(finite, allow_nan=False) + "\n").encode()
        with writing(self.metrics_path, len(line)), open(self.metrics_path, "ab", 0) as file:
            end = file.tell()
            try:
                written = file.write(line)
                if written < len(line):  # a nearly full disk takes a part; the rest raises
                    file.write(line[written:])
            except OSError:
                file.truncate(end)
                raise

    def sync_metrics(self) -> None:
        """Flush the records to the disk: before a checkpoint that goes on from them."""
        if self.metrics_path.exists():
            with writing(self.metrics_path, 0), open(self.metrics_path, "ab") as file:
                os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read the records; lines that a power cut has torn are passed over."""
        return [record for _, record in self._metric_lines()]

    def truncate_metrics(self, step: int) -> None:
        """Forget, at a resume, what was recorded after `step`; records without a step stay."""
        if not self.metrics_path.exists():
            return
        kept = b"".join(
            line
            for line, record in self._metric_lines()
            if not isinstance(record.get("step"), int) or record["step"] <= step
        )
        if len(kept) != self.metrics_path.stat().st_size:
            write_atomic(self.metrics_path, kept)

    def _metric_lines(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        if not self.metrics_path.exists():
            return
        with open(self.metrics_path, "rb") as file:
            for line in file:
                with contextlib.suppress(RunError):
                    record = parse_json(line, self.metrics_path)
                    if isinstance(record, dict) and line.endswith(b"\n"):
                        yield line, record

    def count_look(self, fingerprint: str) -> int:
        """Note that the run is scored on some data, and give how often it has been by now.

        Whoever looks at a test set often, and chooses by it, has no test set.
        """
        known = read_json(self.path / LOOKS) if (self.path / LOOKS).exists() else {}
        looks: dict[str, int] = known if isinstance(known, dict) else {}
        looks[fingerprint] = looks.get(fingerprint, 0) + 1
        with contextlib.suppress(OSError, EnsueError):  # of a run that cannot be written to
            write_json(self.path / LOOKS, looks)
        return looks[fingerprint]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process alone; see `holding`.

        Whoever holds it also clears away what a killed process left unfinished.

        Raises:
            HeldError: Another process holds it.
        """
        with holding(self.path / "run.lock", f"{self.path} is being trained"):
            remove_temporaries(self.path)
            yield


class NoRunError(RunError):
    """There is no run of that name, or none at all."""


class HeldError(RunError):
    """Another process is at work in this folder."""


@contextlib.contextmanager
def holding(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock file; the system lets go when the process dies.

    Args:
        path: The lock file.
        doing: What another process must be doing when it holds it, for the message.

    Raises:
        HeldError: Another process holds it.
    """
    path = path.resolve()
    if path in _held:
        raise _held_by(doing, str(os.getpid()))
    with writing(path, 0):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _try_lock(fd):
            raise _held_by(doing, os.read(fd, 20).decode("ascii", "replace").strip())
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        _held.add(path)
        yield
    finally:
        _held.discard(path)
        os.close(fd)


def _say_what_it_is(run: Run) -> str:
    if run.plan_path.exists() or run.checkpoints_dir.exists():
        return "is half-copied: it lacks run.json"
    inside = [found.path.name for found in _runs_in(run.path)]
    return f"is not a run; it holds these: {', '.join(inside[:5])}" if inside else "is not a run"


def _held_by(doing: str, pid: str) -> HeldError:
    return HeldError(
        f"{doing} by another process (pid {pid})",
        "Wait until it ends or stop it, or take another folder with --out.",
    )


def _try_lock(fd: int) -> bool:
    """Lock without waiting.

    A record lock, not flock: that one is inherited, and data workers that outlive a killed parent
    for some seconds would keep the run from being resumed.
    """
    try:
        if sys.platform == "win32":
            # Far behind the content, which must stay readable: Windows locks are mandatory.
            os.lseek(fd, 1 << 30, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            os.lseek(fd, 0, os.SEEK_SET)
        else:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (PermissionError, BlockingIOError):
        return False
    except OSError:  # ENOLCK, ENOTSUP: some network file systems have no locks
        return True
    return True


def _runs_in(root: Path) -> list[Run]:
    """Give the runs in a folder, and the winners of the comparisons in it."""
    if not root.is_dir():
        return []
    markers = [*root.glob("*/run.json"), *root.glob("*/winner/run.json")]
    return [Run(marker.parent) for marker in sorted(markers)]


def newest_run(root: Path | str = "runs") -> Run:
    """Find the run that was worked on last, among the folders in `root`.

    Raises:
        NoRunError: There is none.
    """
    runs = _runs_in(Path(root))
    if not runs:
        raise NoRunError(f"there is no run in {root}", "Train one first: ensue train book.txt")
    return Run.open(max(runs, key=_last_worked_on).path)


def _last_worked_on(run: Run) -> tuple[float, str]:
    marks = (run._marker, run.plan_path, run.metrics_path, run.weights_path)
    return max(mark.stat().st_mtime for mark in marks if mark.exists()), run.path.name


def stem_of(source: str) -> str:
    """Give what runs are called after: ``book`` of book.txt, ``dates`` of dates/train.tsv."""
    path = Path(source)
    stem = path.name.split(".")[0].strip("-")
    return path.parent.name if stem == "train" and path.parent.name else stem


def new_run_path(stem: str, root: Path | str = "runs") -> Path:
    """Give the first free path of the form ``runs/<stem>-001``."""
    number = 1
    while (path := Path(root) / f"{stem}-{number:03d}").exists():
        number += 1
    return path
