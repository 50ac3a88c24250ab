"""Names in many languages, and which language each is in: labelled texts that need no download.

    Papua-Neuguinea         German
    パプアニューギニア          Japanese
    Tyskland                Danish, Norwegian and Swedish alike: left out

They are the names of countries, languages, currencies and scripts in the Unicode CLDR, through
Babel. What several of the languages write alike tells nobody which it is, and is left out: so what
remains of neighbours (Danish and Norwegian, Spanish and Portuguese) differs, but by little.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from babel import Locale

from ensue.data.dates import LOCALES, SPLITS

LANGUAGES = tuple(dict.fromkeys(name.partition("_")[0] for name in LOCALES))
"""As CLDR names them; no variants of one: en, and not en_GB."""
EACH = {"valid": 30, "test": 30, "train": 400}
"""Names of each language at most, so that none is commoner than others; Danish has 325 to learn."""


def labelled_names() -> dict[str, list[tuple[str, str]]]:
    """Give by split the names, each with its language in English, always the same ones."""
    found = {split: list[tuple[str, str]]() for split in SPLITS}
    english = Locale.parse("en").languages
    rng = random.Random("languages")
    for language, names in _own_names().items():
        rng.shuffle(names)
        left = iter(names)
        for split, count in EACH.items():
            found[split] += [(name, english[language]) for _, name in zip(range(count), left)]  # noqa: B905
    for rows in found.values():
        rng.shuffle(rows)
    return found


def write(folder: Path) -> None:
    """Write the splits as ``train.tsv``, ``valid.tsv`` and ``test.tsv``."""
    for split, rows in labelled_names().items():
        text = "".join("\t".join(row) + "\n" for row in [("text", "label"), *rows])
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8", newline="\n")


def _own_names() -> dict[str, list[str]]:
    """Give of each language, in order, the names that no other one writes so, whatever the case."""
    by_language = {language: list(_names(language)) for language in LANGUAGES}
    writers: dict[str, set[str]] = defaultdict(set)
    for language, names in by_language.items():
        for name in names:
            writers[name.casefold()].add(language)
    return {
        language: sorted(
            {n.casefold(): n for n in names if len(writers[n.casefold()]) == 1}.values()
        )
        for language, names in by_language.items()
    }


def _names(language: str) -> Iterator[str]:
    locale = Locale.parse(language)
    kinds = (locale.territories, locale.languages, locale.currencies, locale.scripts)
    for name in chain.from_iterable(kind.values() for kind in kinds):
        yield " ".join(name.split())
