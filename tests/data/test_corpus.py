"""Splits, streams, the cache, and what happens to it."""

import errno
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensue.data import (
    DataConfig,
    cache,
    choose_tokenizer,
    corpus,
    prepare,
    reading,
    shards,
    spool,
    tokenise,
)
from ensue.data.worker import importable
from ensue.errors import DataError, DiskFullError, EnsueError, UsageError
from ensue.tokenizers import Tokenizer, load_tokenizer, train_tokenizer

LINES = "".join(f"line {i} of a text, with some words in it: é\n" for i in range(900))


def make(kind: str, texts: Iterator[str], vocab_size: int) -> Tokenizer:
    return train_tokenizer(kind, texts, vocab_size=vocab_size)


def run(root: Path, *sources: Path | str, **options: Any) -> corpus.Corpus:
    workers = options.pop("workers", 0)
    progress: Callable[[str, int, int], None] = options.pop("progress", lambda *_: None)
    config = DataConfig(sources=tuple(map(str, sources)), cache=str(root / "cache"), **options)
    return prepare(
        config,
        make_tokenizer=make,
        load_tokenizer=load_tokenizer,
        on_progress=progress,
        workers=workers,
    )


def write(path: Path, text: str = LINES) -> Path:
    path.write_bytes(text.encode())
    os.utime(path, (1e9, 1e9))  # long ago: files changed within two seconds are never indexed
    return path


def words(result: corpus.Corpus, split: str) -> str:
    ids = getattr(result, split).ids
    return load_tokenizer(result.tokenizer_path).decode(ids.tolist())


@pytest.mark.parametrize("kind", ["byte", "char", "word", "bpe"])
def test_one_document_is_cut_by_position_to_the_character(kind: str, tmp_path: Path) -> None:
    """The split must be nanoGPT's, or scores cannot be compared."""
    result = run(tmp_path, write(tmp_path / "a.txt"), tokenizer=kind)
    cut = int(0.9 * len(LINES))
    assert words(result, "train") == LINES[:cut]
    assert result.valid.num_bytes == len(LINES[cut:].encode())
    eos = load_tokenizer(result.tokenizer_path).eos_id
    for tokens in (result.train, result.valid):
        assert np.flatnonzero(tokens.ids == eos).tolist() == [0, len(tokens) - 1]
        assert tokens.ids.dtype == np.uint16
        assert not tokens.ids.flags.writeable
    assert cache.cache_root(str(tmp_path / "cache")) in result.tokenizer_path.parents


def test_cut_inside_later_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read_documents", _small_pieces)
    result = run(tmp_path, write(tmp_path / "a.txt"), tokenizer="bpe")
    cut = int(0.9 * len(LINES))
    assert words(result, "train") == LINES[:cut]
    assert words(result, "valid") == LINES[cut:]


def _small_pieces(*args: Any) -> Any:
    from ensue.data import text

    for document in text.read_documents(*args):
        whole = "".join(document.pieces)
        yield text.Document(
            document.name, iter([whole[i : i + 100] for i in range(0, len(whole), 100)])
        )


def test_many_documents_are_split_whole_and_duplicates_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [f"document number {i % 100}" for i in range(200)]  # each twice
    write(path, "".join(json.dumps({"text": row}) + "\n" for row in rows))
    result = run(tmp_path, path, tokenizer="char")
    tokenizer = load_tokenizer(result.tokenizer_path)
    splits = []
    for tokens in (result.train, result.valid):
        ids = tokens.ids.astype(int)
        ends = np.flatnonzero(ids == tokenizer.eos_id)
        splits.append(
            [tokenizer.decode(ids[a + 1 : b].tolist()) for a, b in itertools.pairwise(ends)]
        )
    train, valid = splits
    assert sorted(train + valid) == sorted(rows)
    assert not set(train) & set(valid)
    assert 16 <= len(valid) <= 30
    assert "chosen by a hash" in "\n".join(result.notes)
    assert train == [row for row in rows if row in set(train)]  # in the order of the file


def test_explicit_valid_is_used_whole(tmp_path: Path) -> None:
    train, valid = write(tmp_path / "a.txt"), write(tmp_path / "b.txt", "held out words\n")
    result = run(tmp_path, train, valid=(str(valid),), tokenizer="byte")
    assert words(result, "train") == LINES
    assert words(result, "valid") == "held out words\n"


def test_tokenizer_follows_the_amount_of_text() -> None:
    assert choose_tokenizer(1000, 60) == ("char", 0)
    assert choose_tokenizer(1000, 4000) == ("byte", 0)
    sizes = [choose_tokenizer(n, 90)[1] for n in (10**6, 5 * 10**6, 2 * 10**7, 10**9)]
    assert sizes == [1024, 2048, 4096, 8192]


def test_unspelt_bytes_are_counted_and_said(tmp_path: Path) -> None:
    valid = write(tmp_path / "b.txt", "aあい")
    result = run(
        tmp_path, write(tmp_path / "a.txt", "a" * 99), valid=(str(valid),), tokenizer="char"
    )
    assert result.valid.unspelt_bytes == 6
    assert "cannot spell" in "\n".join(result.notes)


def test_named_tokenizer_is_used(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    train_tokenizer("bpe", [LINES], vocab_size=300).save(path)
    result = run(tmp_path, write(tmp_path / "a.txt"), tokenizer=str(path))
    assert result.tokenizer_path == path
    assert words(result, "train") == LINES[: int(0.9 * len(LINES))]
    with pytest.raises(DataError, match="cannot be read"):
        run(tmp_path, tmp_path / "a.txt", tokenizer=str(tmp_path / "no.json"))


@pytest.mark.parametrize(
    ("content", "message"), [("a", "one character is too little"), ("", "is empty")]
)
def test_too_little_text_is_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        run(tmp_path, write(tmp_path / "a.txt", content))


def test_two_characters_are_enough_for_a_stream(tmp_path: Path) -> None:
    result = run(tmp_path, write(tmp_path / "a.txt", "ab"))
    assert (len(result.train), len(result.valid)) == (3, 3)


def test_bad_settings_are_refused() -> None:
    for options in ({"valid_fraction": 1.0}, {"vocab_size": -1}, {"tokenizer": "charr"}):
        with pytest.raises(UsageError):
            DataConfig(sources=("a",), **options)
    with pytest.raises(DataError, match="encoding"):
        DataConfig(sources=("a",), encoding="utf-9")


def test_second_time_reads_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt")
    first = run(tmp_path, path)
    calls: list[str] = []
    second = run(tmp_path, path, progress=lambda stage, *_: calls.append(stage))
    assert calls == []
    assert second.fingerprint == first.fingerprint
    assert second.notes == first.notes
    assert isinstance(second.train.ids, np.memmap)
    assert not list((tmp_path / "cache" / "tmp").iterdir())


def test_changed_text_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt")
    first = run(tmp_path, path)
    write(path, LINES.replace("words", "wordz"))  # same size, same time stamp
    path.touch()
    assert run(tmp_path, path).fingerprint != first.fingerprint
    write(path)
    os.utime(path, (2e9 - 1e9 + 5, 1e9 + 5))
    assert run(tmp_path, path).fingerprint == first.fingerprint


def test_copy_of_a_text_reuses_the_tokens(tmp_path: Path) -> None:
    run(tmp_path, write(tmp_path / "a.txt"))
    calls: list[str] = []
    run(tmp_path, write(tmp_path / "b.txt"), progress=lambda stage, *_: calls.append(stage))
    assert set(calls) == {"reading"}


DAMAGE: dict[str, Callable[[Path], None]] = {
    "ids cut": lambda p: os.truncate(p / "ids.bin", 100),
    "ids changed": lambda p: (p / "ids.bin").write_bytes(b"\7" * (p / "ids.bin").stat().st_size),
    "ids gone": lambda p: (p / "ids.bin").unlink(),
    "manifest cut": lambda p: os.truncate(p / "manifest.json", 20),
    "manifest empty": lambda p: (p / "manifest.json").write_text("{}"),
    "manifest lies": lambda p: (p / "manifest.json").write_text(
        (p / "manifest.json").read_text().replace("uint16", "object")
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_stream_is_made_again_and_said(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt")
    first = run(tmp_path, path)
    expected = first.train.ids.tolist()
    for folder in (tmp_path / "cache" / "streams").iterdir():
        DAMAGE[name](folder)
    second = run(tmp_path, path)
    assert second.train.ids.tolist() == expected
    assert "cached train tokens were damaged" in "\n".join(second.notes)
    assert "damaged" not in "\n".join(run(tmp_path, path).notes)


def test_damaged_index_and_tokenizer_are_made_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt")
    first = run(tmp_path, path)
    for folder, content in (("index", "{}"), ("index", "no json"), ("tokenizers", "{}")):
        for file in (tmp_path / "cache" / folder).iterdir():
            file.write_text(content)
        assert run(tmp_path, path).fingerprint == first.fingerprint


def test_full_disk_says_what_is_needed_and_leaves_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.txt")

    def full(_file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "sync", full)
    with pytest.raises(DiskFullError, match=r"needs about [\d,]+ bytes, [\d,]+ are free") as caught:
        run(tmp_path, path)
    assert "ENSUE_CACHE" in caught.value.hint
    left = [
        p for p in (tmp_path / "cache").rglob("*") if p.is_file() and "tokenizers" not in p.parts
    ]
    assert left == []
    monkeypatch.undo()
    assert len(run(tmp_path, path).train) > 100


def test_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cache .* cannot be written"):
        run(tmp_path, write(tmp_path / "a.txt"))


def test_debris_of_a_killed_process_is_swept(tmp_path: Path) -> None:
    old = tmp_path / "cache" / "tmp" / "deadbeef"
    old.mkdir(parents=True)
    (old / "lock").touch()
    (old / "train").write_text("half")
    os.utime(old, (1e9, 1e9))
    with cache.scratch(tmp_path / "cache") as alive:
        os.utime(alive, (1e9, 1e9))
        run(tmp_path, write(tmp_path / "a.txt"))
        assert alive.exists()  # locked by a living process
    assert not old.exists()


def test_parallel_workers_give_the_same_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PARALLEL_BYTES", 1000)
    monkeypatch.setattr(spool.View, "batches", _small_batches(spool.View.batches))
    path = write(tmp_path / "a.txt", LINES * 20)
    monkeypatch.setattr(reading, "read_documents", _small_pieces)
    one = run(tmp_path, path, tokenizer="bpe", workers=1)
    expected = one.train.ids.tolist()
    shutil.rmtree(tmp_path / "cache" / "streams")
    two = run(tmp_path, path, tokenizer="bpe", workers=2)
    assert two.train.ids.tolist() == expected


def _small_batches(batches: Any) -> Any:
    return lambda view, size=20_000: batches(view, size)


def _fails(path: Path) -> Tokenizer:
    raise RuntimeError("no such tokenizer")


def test_worker_that_dies_is_an_error_not_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PARALLEL_BYTES", 1000)
    script = "import sys; sys.exit(9)"
    monkeypatch.setattr("ensue.data.worker._MAIN", script)
    with pytest.raises(EnsueError, match="ended before its work was done"):
        run(tmp_path, write(tmp_path / "a.txt"), workers=2)
    assert not list((tmp_path / "cache" / "streams").glob("*"))


def test_only_functions_of_modules_go_to_workers() -> None:
    """A lambda or a script's own function cannot be found by another process."""
    assert importable(load_tokenizer)
    assert not importable(lambda path: load_tokenizer(path))


def test_evaluation_text_is_one_stream(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("byte", [])
    path = write(tmp_path / "a.txt", "abc")
    tokens, notes = tokenise([str(path)], tokenizer, cache_folder=str(tmp_path / "cache"))
    assert tokens.ids.tolist() == [256, 97, 98, 99, 256]
    assert (tokens.num_bytes, tokens.unspelt_bytes, notes) == (3, 0, ())
    assert tokens.fingerprint == hashlib.sha256(b"abc").hexdigest()


SCRIPT = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from ensue.data import DataConfig, prepare
    from ensue.tokenizers import load_tokenizer, train_tokenizer
    slow = float(sys.argv[3])
    result = prepare(
        DataConfig(sources=(sys.argv[1],), cache=sys.argv[2], tokenizer="bpe"),
        make_tokenizer=lambda kind, texts, size: train_tokenizer(kind, texts, vocab_size=size),
        load_tokenizer=load_tokenizer,
        on_progress=lambda *_: time.sleep(slow),
    )
    sys.stdout.write(result.fingerprint + " " + str(len(result.train)))
""")


def start(path: Path, root: Path, slow: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(path), str(root / "cache"), str(slow)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_build_at_once_agree(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", LINES * 10)
    both = [start(path, tmp_path, 0.01) for _ in range(2)]
    answers = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1] != ""
    assert not list((tmp_path / "cache" / "tmp").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_kill_at_any_time_leaves_nothing_half(tmp_path: Path) -> None:
    """After kill -9 the same command must give what an unkilled one gives."""
    path = write(tmp_path / "a.txt", LINES * 40)
    reference = run(tmp_path / "other", path, tokenizer="bpe")
    for delay in (0.25, 0.4, 0.55, 0.7):
        process = start(path, tmp_path, 0.02)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(path, tmp_path, 0)
    answer = process.communicate()[0]
    assert answer == f"{reference.fingerprint} {len(reference.train)}"


@pytest.mark.data
def test_tiny_shakespeare_is_split_as_nanogpt_does(public_data: Path, tmp_path: Path) -> None:
    result = run(tmp_path, public_data / "tiny_shakespeare" / "input.txt", tokenizer="char")
    assert (len(result.train) - 2, len(result.valid) - 2) == (1_003_854, 111_540)
