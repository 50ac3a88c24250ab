"""Named public sets: where they come from, under which licence, and how to know them.

A set is looked for on this machine first: below ``ENSUE_DATA``, then in the cache. The network is
used by `get` alone.
"""

import gzip
import hashlib
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensue.data import cache
from ensue.errors import DataError, MissingExtraError, UsageError, nearest

_CHAR_RNN = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare"
_EXAMPLES = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a public set."""

    split: str
    """train, valid or test."""
    url: str
    """Where it is fetched."""
    size_bytes: int
    """Its size."""
    sha256: str
    """Its content."""
    local: str
    """Its path below ``ENSUE_DATA``, perhaps gzipped."""


@dataclass(frozen=True, kw_only=True)
class PublicSet:
    """A named public set."""

    name: str
    """As in ``ensue data get NAME``."""
    title: str
    """One line on what it is."""
    licence: str
    """Under which terms it may be used."""
    files: tuple[File, ...]
    """Its files."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


CATALOG: tuple[PublicSet, ...] = (
    PublicSet(
        name="shakespeare",
        title="Tiny Shakespeare: 40,000 lines of his plays (Karpathy 2015)",
        licence="the text is in the public domain; its repository states no licence",
        files=(
            File(
                split="train",
                url=f"{_CHAR_RNN}/input.txt",
                size_bytes=1_115_394,
                sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                local="tiny_shakespeare/input.txt",
            ),
        ),
    ),
    PublicSet(
        name="wikitext-2",
        title="WikiText-2: 720 good Wikipedia articles, tokenised (Merity et al. 2016)",
        licence="CC BY-SA 3.0 and GFDL (text of Wikipedia)",
        files=(
            File(
                split="train",
                url=f"{_EXAMPLES}/wikitext-2/train.txt",
                size_bytes=10_797_148,
                sha256="9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
                local="wikitext-2/wiki.train.tokens.gz",
            ),
            File(
                split="valid",
                url=f"{_EXAMPLES}/wikitext-2/valid.txt",
                size_bytes=1_121_681,
                sha256="f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
                local="wikitext-2/wiki.valid.tokens.gz",
            ),
            File(
                split="test",
                url=f"{_EXAMPLES}/wikitext-2/test.txt",
                size_bytes=1_256_449,
                sha256="d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
                local="wikitext-2/wiki.test.tokens.gz",
            ),
        ),
    ),
)


def entry(name: str) -> PublicSet:
    """Give the set of that name.

    Raises:
        UsageError: There is none.
    """
    for public in CATALOG:
        if public.name == name:
            return public
    names = [public.name for public in CATALOG]
    raise UsageError(
        f"no public set {name!r}{nearest(name, names)}", f"Known sets: {', '.join(names)}"
    )


def find(name: str, cache_folder: str = "") -> dict[str, Path] | None:
    """Give split to file when the whole set is on this machine, otherwise None."""
    public = entry(name)
    root = cache.cache_root(cache_folder)
    found: dict[str, Path] = {}
    for file in public.files:
        places = [_cached(root, public, file)]
        if os.environ.get("ENSUE_DATA"):
            places.insert(0, Path(os.environ["ENSUE_DATA"]) / file.local)
        for place in places:
            if place.is_file() and _fits(place, file):
                found[file.split] = place
                break
    return found if len(found) == len(public.files) else None


def get(name: str, on_progress: Progress | None = None, cache_folder: str = "") -> dict[str, Path]:
    """Give split to file, fetching what is not on this machine.

    Each file is written under another name and renamed when its SHA-256 is right. The caller
    shows `PublicSet.size_bytes` and `PublicSet.licence` first.

    Args:
        name: A name in the catalog.
        on_progress: Called with (split, bytes so far, bytes in all).
        cache_folder: As ``DataConfig.cache``.

    Raises:
        DataError: The network, the server or the content is not right.
    """
    found = find(name, cache_folder)
    if found is not None:
        return found
    public = entry(name)
    root = cache.cache_root(cache_folder)
    files: dict[str, Path] = {}
    with cache.scratch(root, lambda: public.size_bytes) as scratch:
        for file in public.files:
            target = _cached(root, public, file)
            if not (target.is_file() and _fits(target, file)):
                _fetch(public, file, scratch, on_progress)
                target.parent.mkdir(parents=True, exist_ok=True)
                (scratch / file.split).replace(target)
            files[file.split] = target
    return files


def resolve(source: str, cache_folder: str = "") -> dict[str, Path] | None:
    """Give the files of ``data:NAME``, or of a bare NAME of the catalog that is no local path.

    Returns:
        Split to file; None when ``source`` is not a name of the catalog.

    Raises:
        DataError: The set is known but not on this machine.
        UsageError: ``data:NAME`` with an unknown name.
    """
    explicit = source.startswith("data:")
    name = source.removeprefix("data:")
    known = any(public.name == name for public in CATALOG)
    if not explicit and (not known or Path(source).exists()):
        return None
    found = find(name, cache_folder)
    if found is None:
        raise DataError(
            f"the public set {name!r} is not on this machine",
            f"Fetch it: ensue data get {name} ({entry(name).size_bytes:,} bytes)",
        )
    return found


def _cached(root: Path, public: PublicSet, file: File) -> Path:
    return root / "sets" / public.name / f"{file.split}.txt"


def _fits(path: Path, file: File) -> bool:
    """Compare size and, as the files are small, content."""
    try:
        if path.suffix == ".gz":
            # One byte more than expected is enough to know.
            with gzip.open(path) as stream:
                data = stream.read(file.size_bytes + 1)
        else:
            if path.stat().st_size != file.size_bytes:
                return False
            data = path.read_bytes()
    except (OSError, EOFError):
        return False
    return hashlib.sha256(data).hexdigest() == file.sha256


def _fetch(public: PublicSet, file: File, scratch: Path, on_progress: Progress | None) -> None:
    try:
        pooch: Any = importlib.import_module("pooch")
        requests: Any = importlib.import_module("requests")
    except ImportError:
        raise MissingExtraError("pooch", "data") from None

    def download(url: str, output: str, _: Any) -> None:
        # pooch's own downloader leaves the connection open when the answer is an error.
        done = 0
        with requests.get(url, stream=True, timeout=30) as answer, open(output, "wb") as stream:
            answer.raise_for_status()
            for block in answer.iter_content(1 << 16):
                done += stream.write(block)
                if on_progress:
                    on_progress(file.split, done, file.size_bytes)

    try:
        pooch.get_logger().setLevel("WARNING")
        pooch.retrieve(
            file.url,
            known_hash=f"sha256:{file.sha256}",
            fname=file.split,
            path=scratch,
            downloader=download,
        )
    except (requests.RequestException, ValueError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            raise
        what = "its content is not what it should be" if isinstance(error, ValueError) else error
        raise DataError(
            f"{public.name} ({file.split}): {file.url} cannot be had: {str(what)[:200]}",
            f"Try again later, or put the file at $ENSUE_DATA/{file.local} yourself.",
        ) from None
    with (scratch / file.split).open("rb") as stream:
        os.fsync(stream.fileno())
