"""Named sets: found locally first, fetched only whole and right."""

import gzip
import hashlib
import http.server
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ensue.commands import parse_train
from ensue.data import catalog
from ensue.errors import DataError, MissingExtraError, UsageError

CONTENT = b"to be or not to be\n" * 500


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/short.txt":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:100])
            self.close_connection = True
        else:
            super().do_GET()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "good.txt").write_bytes(CONTENT)
    (folder / "wrong.txt").write_bytes(CONTENT.replace(b"be", b"bo"))
    (folder / "good.gz").write_bytes(gzip.compress(CONTENT))
    (folder / "wrong.gz").write_bytes(gzip.compress(CONTENT[:-9]))
    (folder / "cut.gz").write_bytes(gzip.compress(CONTENT)[:-9])
    handler = partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("data") is None:
        monkeypatch.delenv("ENSUE_DATA", raising=False)
    monkeypatch.setenv("ENSUE_CACHE", str(tmp_path / "cache"))


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    public = catalog.entry("shakespeare")
    file = replace(
        public.files[0],
        url=url,
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setattr(catalog, "CATALOG", (replace(public, files=(file,)),))


def test_fetched_once_then_found(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pooch")
    use(monkeypatch, f"{server}/good.txt")
    assert catalog.find("shakespeare") is None
    seen: list[tuple[str, int, int]] = []
    files = catalog.get("shakespeare", lambda *args: seen.append(args))
    assert files["train"].read_bytes() == CONTENT
    assert seen[-1] == ("train", len(CONTENT), len(CONTENT))
    use(monkeypatch, "http://127.0.0.1:9/never")
    assert catalog.get("shakespeare") == files
    assert catalog.resolve("data:shakespeare") == files


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("wrong.txt", "not what it should be"),
        ("short.txt", "cannot be had"),
        ("none.txt", "404"),
    ],
)
def test_what_is_not_right_is_refused_and_leaves_nothing(
    path: str, message: str, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pooch")
    use(monkeypatch, f"{server}/{path}")
    with pytest.raises(DataError, match=message) as caught:
        catalog.get("shakespeare")
    assert "ENSUE_DATA" in caught.value.hint
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_offline_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pooch")
    use(monkeypatch, "http://127.0.0.1:9/input.txt")
    with pytest.raises(DataError, match="cannot be had"):
        catalog.get("shakespeare")


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r"ensue\[data\]"):
        catalog.get("shakespeare")


def test_local_files_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "http://127.0.0.1:9/never")
    monkeypatch.setenv("ENSUE_DATA", str(tmp_path))
    place = tmp_path / "tiny_shakespeare" / "input.txt"
    place.parent.mkdir()
    place.write_bytes(CONTENT[:-1] + b"!")
    assert catalog.find("shakespeare") is None  # another text under the same name
    place.write_bytes(CONTENT)
    assert catalog.get("shakespeare") == {"train": place}


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="did you mean 'wikitext-2'"):
        catalog.entry("wikitext2")
    assert catalog.resolve("book.txt") is None
    with pytest.raises(DataError, match="ensue data get wikitext-2"):
        catalog.resolve("wikitext-2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shakespeare").write_text("my own file")
    assert catalog.resolve("shakespeare") is None


def test_damaged_gzip_is_not_taken(tmp_path: Path) -> None:
    file = catalog.entry("wikitext-2").files[1]
    path = tmp_path / "a.gz"
    for content in (b"", b"nonsense", gzip.compress(b"other text"), gzip.compress(CONTENT)[:50]):
        path.write_bytes(content)
        assert not catalog._fits(path, file)


def use_packed(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Put a set of two gzipped files in the place of the catalog."""
    public = catalog.entry("multi30k")
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    files = tuple(
        replace(file, url=url, size_bytes=len(CONTENT), sha256=sha256) for file in public.files[:2]
    )
    monkeypatch.setattr(catalog, "CATALOG", (replace(public, files=files),))


def test_gzipped_files_are_fetched_known_by_their_content_and_read(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same text is packed in other bytes elsewhere: its hash is of what is inside."""
    pytest.importorskip("pooch")
    use_packed(monkeypatch, f"{server}/good.gz")
    with pytest.raises(DataError, match="ensue data get multi30k"):
        catalog.resolve_file("multi30k/train.de")
    files = catalog.get("multi30k")
    assert set(files) == {"train.de", "train.en"}
    assert gzip.decompress(files["train.en"].read_bytes()) == CONTENT
    assert catalog.resolve_file("multi30k/train.en") == str(files["train.en"])
    use_packed(monkeypatch, "http://127.0.0.1:9/never.gz")
    assert catalog.get("multi30k") == files
    monkeypatch.setenv("ENSUE_DATA", str(tmp_path / "data"))
    local = tmp_path / "data" / "multi30k" / "train.de.gz"
    local.parent.mkdir(parents=True)
    local.write_bytes(gzip.compress(CONTENT, 1))
    assert catalog.resolve_file("multi30k/train.de") == str(local)


@pytest.mark.parametrize("name", ["wrong", "cut"])
def test_gzipped_files_that_are_not_right_are_refused(
    name: str, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pooch")
    use_packed(monkeypatch, f"{server}/{name}.gz")
    with pytest.raises(DataError, match="not what it should be"):
        catalog.get("multi30k")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_a_set_of_several_languages_asks_for_two(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`ensue train multi30k` ended in a KeyError."""
    use_packed(monkeypatch, "http://127.0.0.1:9/never.gz")
    monkeypatch.setenv("ENSUE_DATA", str(tmp_path))
    (tmp_path / "multi30k").mkdir()
    for name in ("train.de.gz", "train.en.gz"):
        (tmp_path / "multi30k" / name).write_bytes(gzip.compress(CONTENT))
    assert catalog.task_of("multi30k") == "translate"
    for words in (["multi30k"], ["data:multi30k", "--task", "lm"]):
        with pytest.raises(UsageError, match="several languages: name two") as caught:
            parse_train(words, None)
        assert "--src multi30k/train.de --tgt multi30k/train.en" in caught.value.hint
    both = ["--src", "multi30k/train.de", "--tgt", "multi30k/train.en"]
    config, _ = parse_train(both, None)
    assert config.data.src == (str(tmp_path / "multi30k" / "train.de.gz"),)
    with pytest.raises(UsageError, match=r"no file 'train.dee'; did you mean 'train.de'"):
        parse_train(["--src", "multi30k/train.dee", *both[2:]], None)


@pytest.mark.data
def test_multi30k_is_what_its_paper_says() -> None:
    """29,000 pairs to learn from, 1,014 to validate on, 1,000 to test."""
    for split, count in (("train", 29_000), ("valid", 1_014), ("test", 1_000)):
        for language in ("de", "en", "fr"):
            path = catalog.resolve_file(f"multi30k/{split}.{language}")
            with gzip.open(path) as stream:
                assert sum(1 for _ in stream) == count


@pytest.mark.data
def test_catalog_matches_the_public_files() -> None:
    for public in catalog.CATALOG:
        found = catalog.find(public.name)
        assert found is not None
        assert tuple(found) == public.splits
