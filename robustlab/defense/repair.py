"""Input repair: the question is put right before anything reads it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from robustlab.attack.perturbations import LOOK_ALIKES
from robustlab.data.records import content_hash

__all__ = ["TypoRepair", "UnicodeRepair"]

_WORD = re.compile(r"[^\W\d_]+")
_ENDINGS = ("s", "es", "ed", "ing", "er", "ers", "est", "ly")
_ADDED = ("s", "ed", "ing")
_LEAST_STEM = 3


class TypoRepair:
    """Mistyped words become the word of the corpus that is one slip away.

    A word is taken for mistyped if neither the corpus nor the list of ``known`` words has it, with
    or without a common English ending. It becomes the word with the most occurrences in the corpus
    among those that one letter more, less or other, or two neighbours swapped, lead to (Damerau
    1964, who found four in five misspellings to be of these kinds); if there is none, a known word
    of that kind, if there is exactly one; else it stays. Capitals stay as they are.

    Args:
        name: what ``--defense`` calls it.
        texts: the texts of the corpus.
        known: words that are right although the corpus lacks them, in lower case.
        least_length: shorter words are left alone: too many are one slip apart.
    """

    def __init__(
        self, name: str, texts: Iterable[str], known: Iterable[str], least_length: int
    ) -> None:
        self.name = name
        self._least_length = least_length
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_WORD.findall(text.lower()))
        self._counts: Mapping[str, int] = counts
        self._known = frozenset(known) | counts.keys()
        # Two words one slip apart share a spelling with at most one letter left out.
        self._near: defaultdict[str, list[str]] = defaultdict(list)
        for word in sorted(self._known):
            for spelling in {word, *_shortened(word)}:
                self._near[spelling].append(word)

    def repair(self, questions: Sequence[str]) -> list[str]:
        """The questions with every mistyped word replaced."""
        return [_WORD.sub(lambda match: self._repaired(match[0]), text) for text in questions]

    def describe(self) -> Mapping[str, Any]:
        """Name and numbers."""
        return {
            "name": self.name,
            "least_length": self._least_length,
            "corpus_words": len(self._counts),
            "known_words": len(self._known),
        }

    def fingerprint(self) -> str:
        """Hash of the words and how often they occur."""
        words = (f"{word} {self._counts.get(word, 0)}" for word in sorted(self._known))
        return content_hash([self.name, str(self._least_length), *words])

    def _is_known(self, word: str) -> bool:
        """Whether the word is known, or is another form of a known one."""
        if word in self._known or any(f"{word}{ending}" in self._known for ending in _ADDED):
            return True
        stems = (word.removesuffix(ending) for ending in _ENDINGS if word.endswith(ending))
        return any(
            stem in self._known or f"{stem}e" in self._known
            for stem in stems
            if len(stem) >= _LEAST_STEM
        )

    def _repaired(self, word: str) -> str:
        lower = word.lower()
        if len(lower) < self._least_length or self._is_known(lower):
            return word
        near = {
            other
            for spelling in {lower, *_shortened(lower)}
            for other in self._near.get(spelling, ())
            if _one_slip(lower, other)
        }
        from_corpus = [other for other in near if other in self._counts]
        if from_corpus:
            best = min(from_corpus, key=lambda other: (-self._counts[other], other))
        elif len(near) == 1:
            (best,) = near
        else:
            return word
        return _in_case_of(word, best)


class UnicodeRepair:
    """Characters that only look like others, or like nothing, become what they look like.

    In this order: text between a RIGHT-TO-LEFT OVERRIDE and the POP DIRECTIONAL FORMATTING that
    ends it is put into the order in which it is displayed; control and format characters (zero
    width, direction, soft hyphens, tags) are left out; the compatibility forms of Unicode (NFKC)
    and accents piled on letters, more than two, go; letters that look like Latin ones (UTS #39)
    become these in words that have a Latin letter or nothing but such letters.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def repair(self, questions: Sequence[str]) -> list[str]:
        """The questions as they look."""
        return [_plain(text) for text in questions]

    def describe(self) -> Mapping[str, Any]:
        """Name, and the version of Unicode whose tables it uses."""
        return {"name": self.name, "unicode": unicodedata.unidata_version}

    def fingerprint(self) -> str:
        """Hash of name and version."""
        return content_hash([self.name, unicodedata.unidata_version])


_OVERRIDDEN = re.compile("\N{RIGHT-TO-LEFT OVERRIDE}([^\u202a-\u202e]*)\u202c")
_PILED = re.compile(r"([\u0300-\u036f]{2})[\u0300-\u036f]+")
_LATIN_LETTERS = {ord(other): letter for letter, other in LOOK_ALIKES.items()}
_SPACES = frozenset("\t\n\r")


def _plain(text: str) -> str:
    while (displayed := _OVERRIDDEN.sub(lambda match: match[1][::-1], text)) != text:
        text = displayed
    visible = "".join(
        character
        for character in text
        if character in _SPACES or unicodedata.category(character) not in ("Cc", "Cf")
    )
    # NFD piles accents apart so that they can be counted; NFKC joins those that remain.
    thinned = _PILED.sub(r"\1", unicodedata.normalize("NFD", visible))
    composed = unicodedata.normalize("NFKC", thinned)
    return re.sub(r"\w+", lambda match: _latin(match[0]), composed)


def _latin(word: str) -> str:
    letters = [character for character in word if character.isalpha()]
    foreign = [ord(letter) in _LATIN_LETTERS for letter in letters]
    latin = any("LATIN" in unicodedata.name(letter, "") for letter in letters)
    return word.translate(_LATIN_LETTERS) if any(foreign) and (latin or all(foreign)) else word


def _shortened(word: str) -> Iterator[str]:
    """The word without one of its letters."""
    for place in range(len(word)):
        yield word[:place] + word[place + 1 :]


def _one_slip(left: str, right: str) -> bool:
    """Whether one letter more, less or other, or two neighbours swapped, make one the other."""
    if len(left) > len(right):
        left, right = right, left
    same = 0
    while same < len(left) and left[same] == right[same]:
        same += 1
    if len(left) < len(right):
        return left[same:] == right[same + 1 :]
    swapped = left[same + 1 : same + 2] + left[same : same + 1] + left[same + 2 :]
    return left[same + 1 :] == right[same + 1 :] or swapped == right[same:]


def _in_case_of(word: str, other: str) -> str:
    """``other``, which is in lower case, capitalised like ``word``."""
    if len(word) > 1 and word.isupper():
        return other.upper()
    return other.capitalize() if word[:1].isupper() else other
