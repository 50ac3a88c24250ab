"""Named public sets: where they come from, under which licence, and how to know them.

A set is looked for on this machine first: below ``ENSUE_DATA``, then in the cache. The network is
used by `get` alone.
"""

import gzip
import hashlib
import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensue.data import cache
from ensue.errors import DataError, MissingExtraError, UsageError, nearest

_CHAR_RNN = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare"
_EXAMPLES = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data"
_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"

MADE = {split: f"{split}.tsv" for split in ("train", "valid", "test")}
"""Splits of a set that is made here, and their files."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a public set."""

    split: str
    """train, valid or test; of pairs with the language: train.de."""
    url: str
    """Where it is fetched, perhaps gzipped."""
    size_bytes: int
    """Its size, unpacked."""
    sha256: str
    """Its content, unpacked."""
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
    files: tuple[File, ...] = ()
    """Its files; none: they are made here."""
    made_by: str = ""
    """The module that writes them: its ``write(folder)``."""
    made: Mapping[str, str] = field(default_factory=lambda: MADE)
    """Split to file of a set that is made here; a file may hold the other splits too."""
    task: str = "lm"
    """What is learnt from it where it alone is named; see `ensue.tasks`."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of its files."""
        return tuple(file.split for file in self.files) or tuple(self.made)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


CATALOG: tuple[PublicSet, ...] = (
    PublicSet(
        name="dates",
        title="Dates as they are written in 33 languages, and in ISO 8601; made here from CLDR",
        licence="Unicode License v3",
        made_by="ensue.data.dates",
        task="translate",
    ),
    PublicSet(
        name="languages",
        title="Names in 32 languages, and which language each is in; made here from CLDR",
        licence="Unicode License v3",
        made_by="ensue.data.languages",
        task="classify",
    ),
    PublicSet(
        name="digits",
        title="1,797 handwritten digits of 8 by 8 pixels (Alpaydin & Kaynak 1998), in scikit-learn",
        licence="CC BY 4.0",
        made_by="ensue.data.digits",
        made={"train": "digits.npz"},
        task="pictures",
    ),
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
    PublicSet(
        name="multi30k",
        title="Multi30k: captions of pictures in German, English and French (Elliott et al. 2016)",
        licence="CC BY-NC-SA 4.0 by its paper, none in its repository: not for commercial use",
        task="translate",
        files=(
            File(
                split="train.de",
                url=f"{_MULTI30K}/train.de.gz",
                size_bytes=2_110_398,
                sha256="2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
                local="multi30k/train.de.gz",
            ),
            File(
                split="train.en",
                url=f"{_MULTI30K}/train.en.gz",
                size_bytes=1_801_238,
                sha256="460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
                local="multi30k/train.en.gz",
            ),
            File(
                split="train.fr",
                url=f"{_MULTI30K}/train.fr.gz",
                size_bytes=2_111_303,
                sha256="5925a3c18f1587b6b54b87743106e6e8ab93618edb6f65d19eac0621f853a10d",
                local="multi30k/train.fr.gz",
            ),
            File(
                split="valid.de",
                url=f"{_MULTI30K}/val.de.gz",
                size_bytes=75_981,
                sha256="660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
                local="multi30k/val.de.gz",
            ),
            File(
                split="valid.en",
                url=f"{_MULTI30K}/val.en.gz",
                size_bytes=63_297,
                sha256="1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
                local="multi30k/val.en.gz",
            ),
            File(
                split="valid.fr",
                url=f"{_MULTI30K}/val.fr.gz",
                size_bytes=73_924,
                sha256="5304e444d842e962b2dda4d816b70b22a1765b15401642b7ca37a67477e708dc",
                local="multi30k/val.fr.gz",
            ),
            File(
                split="test.de",
                url=f"{_MULTI30K}/test_2016_flickr.de.gz",
                size_bytes=70_649,
                sha256="4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
                local="multi30k/test_2016_flickr.de.gz",
            ),
            File(
                split="test.en",
                url=f"{_MULTI30K}/test_2016_flickr.en.gz",
                size_bytes=62_076,
                sha256="399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
                local="multi30k/test_2016_flickr.en.gz",
            ),
            File(
                split="test.fr",
                url=f"{_MULTI30K}/test_2016_flickr.fr.gz",
                size_bytes=72_261,
                sha256="cb3160d69b002bb638e66cc7612fcd56cb0af82eadc9c142dedc438afb885ef6",
                local="multi30k/test_2016_flickr.fr.gz",
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
    if public.made_by:
        return _made(root, public)
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
                fetched = scratch / target.name
                _fetch(public, file, fetched, on_progress)
                target.parent.mkdir(parents=True, exist_ok=True)
                fetched.replace(target)
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


def resolve_file(source: str, cache_folder: str = "") -> str:
    """Give the path of ``NAME/SPLIT``, one file of a set; what is no such name stays as it is.

    Raises:
        DataError: The set is known but not on this machine.
        UsageError: The set is known, and has no such file.
    """
    name, _, split = source.partition("/")
    if not split or Path(source).exists() or all(public.name != name for public in CATALOG):
        return source
    public = entry(name)
    if split not in public.splits:
        raise UsageError(
            f"{name} has no file {split!r}{nearest(split, public.splits)}",
            f"Its files: {', '.join(public.splits)}",
        )
    found = resolve(f"data:{name}", cache_folder)
    assert found is not None
    return str(found[split])


def _made(root: Path, public: PublicSet) -> dict[str, Path]:
    """Make a set, or find what was made before; by another Python the same is made."""
    home = root / "sets" / public.name
    files = {split: home / file for split, file in public.made.items()}
    if not all(path.is_file() for path in files.values()):
        with cache.scratch(root) as scratch:
            importlib.import_module(public.made_by).write(scratch)
            home.mkdir(parents=True, exist_ok=True)
            for path in files.values():
                (scratch / path.name).replace(path)
    return files


def task_of(source: str) -> str:
    """Give the task of a public set that is named; empty: it is no such name."""
    name = source.removeprefix("data:")
    known = next((public.task for public in CATALOG if public.name == name), "")
    return known if name != source or (known and not Path(source).exists()) else ""


def _cached(root: Path, public: PublicSet, file: File) -> Path:
    packed = ".gz" if file.url.endswith(".gz") else ""
    return root / "sets" / public.name / f"{file.split}.txt{packed}"


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


def _fetch(public: PublicSet, file: File, target: Path, on_progress: Progress | None) -> None:
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
            known_hash=None,  # that of the content is checked below: it may be packed in many ways
            fname=target.name,
            path=target.parent,
            downloader=download,
        )
        if not _fits(target, file):
            raise ValueError("its content is not what it should be")
    except (requests.RequestException, ValueError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            raise
        raise DataError(
            f"{public.name} ({file.split}): {file.url} cannot be had: {str(error)[:200]}",
            f"Try again later, or put the file at $ENSUE_DATA/{file.local} yourself.",
        ) from None
    with target.open("rb") as stream:
        os.fsync(stream.fileno())
