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


@pytest.mark.data
def test_catalog_matches_the_public_files() -> None:
    for public in catalog.CATALOG:
        found = catalog.find(public.name)
        assert found is not None
        assert set(found) == {file.split for file in public.files}
