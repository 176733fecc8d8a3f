"""Antonyms from WordNet's own files, where they are on this machine.

NLTK needs half a minute on a busy machine to load WordNet as a whole. The few words of an attack
are looked up here as the database is meant to be read: a line of an index names the places of a
word's senses in a data file. The files are found where NLTK keeps them, as a folder or zipped.

Miller 1995, doi:10.1145/219717.219748; formats: https://wordnet.princeton.edu/documentation/wndb5wn
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from robustlab.errors import UserError

__all__ = ["WordNet", "find_wordnet"]

_PARTS = ("adj", "adv", "noun", "verb")
_PART_OF_LETTER = {"a": "adj", "s": "adj", "r": "adv", "n": "noun", "v": "verb"}

# Endings of inflected words and what a dictionary has instead; see morphy(7WN).
_ENDINGS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
    "noun": (("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
             ("men", "man"), ("ies", "y")),
    "verb": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""),
             ("ing", "e"), ("ing", "")),
}  # fmt: skip


class WordNet:
    """The database, given as its files: ``index.adj``, ``data.adj``, ``adj.exc`` and so on."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        found = re.search(rb"WordNet (\d+\.\d+)", files["data.adj"][:4096])
        self.version = found.group(1).decode() if found else "of unknown version"
        self._antonyms: dict[str, frozenset[str]] = {}
        self._lemmas: dict[str, frozenset[str]] = {}

    def opposed(self, one: str, other: str) -> bool:
        """Whether one word, in any form and sense, means the opposite of the other."""
        return bool(
            self.antonyms(one) & self.lemmas(other) or self.antonyms(other) & self.lemmas(one)
        )

    def antonyms(self, word: str) -> frozenset[str]:
        """Lemmas that are opposed to some sense of a word.

        Only the central adjectives of WordNet have antonyms of their own. Those around them, such
        as *dreadful* around *bad*, are opposed to the same words, and to what lies around those.
        """
        if word not in self._antonyms:
            self._antonyms[word] = frozenset(self._find_antonyms(word))
        return self._antonyms[word]

    def _find_antonyms(self, word: str) -> Iterator[str]:
        for part in _PARTS:
            for lemma in self._lemmas_of_part(word, part):
                for sense in self._senses(lemma, part):
                    for near in self._with_similar(part, sense):
                        for opposite in self._pointers(*near, "!"):
                            for synset in self._with_similar(*opposite):
                                yield from self._words(*synset)

    def lemmas(self, word: str) -> frozenset[str]:
        """The dictionary forms that a word may be a form of, and the word as it is."""
        if word not in self._lemmas:
            parts = (self._lemmas_of_part(word, part) for part in _PARTS)
            self._lemmas[word] = frozenset({word}.union(*parts))
        return self._lemmas[word]

    def _lemmas_of_part(self, word: str, part: str) -> list[str]:
        """Dictionary forms of a word, itself among them if it is one."""
        irregular = self._line(f"{part}.exc", word)[1:]
        regular = [
            word[: -len(ending)] + instead
            for ending, instead in _ENDINGS[part]
            if word.endswith(ending)
        ]
        forms = dict.fromkeys([word, *(irregular or regular)])
        return [form for form in forms if form and self._line(f"index.{part}", form)]

    def _senses(self, lemma: str, part: str) -> list[int]:
        """Offsets of the synsets: ``lemma pos synset_cnt p_cnt … offset offset``."""
        line = self._line(f"index.{part}", lemma)
        return [int(offset) for offset in line[-int(line[2]) :]] if line else []

    def _with_similar(self, part: str, offset: int) -> list[tuple[str, int]]:
        return [(part, offset), *self._pointers(part, offset, "&")]

    def _words(self, part: str, offset: int) -> list[str]:
        """The lemmas of a synset, which may carry a mark of where they stand: ``good(p)``."""
        line = self._synset(part, offset)
        return [word.partition("(")[0].lower() for word in line[4 : 4 + 2 * int(line[3], 16) : 2]]

    def _pointers(self, part: str, offset: int, symbol: str) -> list[tuple[str, int]]:
        """Synsets that one points to: ``… p_cnt (symbol offset pos source/target) …``."""
        line = self._synset(part, offset)
        start = 4 + 2 * int(line[3], 16)
        end = start + 1 + 4 * int(line[start])
        return [
            (_PART_OF_LETTER[line[place + 2]], int(line[place + 1]))
            for place in range(start + 1, end, 4)
            if line[place] == symbol
        ]

    def _synset(self, part: str, offset: int) -> list[str]:
        data = self._files[f"data.{part}"]
        return data[offset : data.index(b"\n", offset)].decode().split()

    def _line(self, file: str, first: str) -> list[str]:
        """The line of a file that begins with this word, split; empty if there is none.

        Lines are sorted by their bytes; the licence at the top is indented, and so comes first.
        """
        data, wanted = self._files[file], first.encode()
        low, high = 0, len(data)
        while low < high:
            start = data.rfind(b"\n", 0, (low + high) // 2) + 1
            end = data.index(b"\n", start)
            line = data[start:end]
            found = line.partition(b" ")[0]
            if found == wanted:
                return line.decode().split()
            if found < wanted:
                low = end + 1
            else:
                high = start
        return []


@cache
def find_wordnet() -> WordNet | None:
    """WordNet in the first of NLTK's folders that has it, or None.

    Raises:
        UserError: what stands there cannot be read.
    """
    names = [name for part in _PARTS for name in (f"index.{part}", f"data.{part}", f"{part}.exc")]
    for folder in _nltk_folders():
        place = folder / "corpora" / "wordnet"
        archive = place.with_suffix(".zip")
        try:
            if place.is_dir():
                return WordNet({name: (place / name).read_bytes() for name in names})
            if archive.is_file():
                with zipfile.ZipFile(archive) as packed:
                    return WordNet({name: packed.read(f"wordnet/{name}") for name in names})
        except (KeyError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{place} is not WordNet as NLTK distributes it: {error}") from error
    return None


def _nltk_folders() -> list[Path]:
    """Where NLTK looks for data."""
    named = [Path(entry) for entry in os.environ.get("NLTK_DATA", "").split(os.pathsep) if entry]
    prefixes = [Path(sys.prefix), Path("/usr"), Path("/usr/local")]
    return [
        *named,
        Path.home() / "nltk_data",
        Path(sys.prefix) / "nltk_data",
        *(prefix / part / "nltk_data" for prefix in prefixes for part in ("share", "lib")),
    ]
