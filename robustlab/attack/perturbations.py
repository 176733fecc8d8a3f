"""What may stand for one word: the transformations of native attacks.

A recipe lists any number of them, and a word may become whatever any of them proposes. Those that
draw at random make ``per_word`` different proposals for a word, or fewer if there are no more::

    [[transformation]]
    kind     = "homoglyph"                # a letter becomes its look-alike of another script
    per_word = 4

    [[transformation]]
    kind     = "invisible-character"      # a character of no width is put between two letters
    per_word = 2

    [[transformation]]
    kind     = "reordering"               # two letters are swapped, and displayed swapped back
    per_word = 4

    [[transformation]]
    kind     = "keyboard-typo"            # a neighbouring key, a key missed, hit twice or too early
    per_word = 1

    [[transformation]]
    kind = "delete-word"

    [[transformation]]
    kind       = "minilm-neighbours"      # see robustlab.attack.neighbours
    k          = 12
    min_cosine = 0.4
    antonyms   = "exclude-if-known"

The first three are the imperceptible perturbations of Boucher et al. 2021, arXiv:2106.09898.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, get_args

import numpy as np

from robustlab.attack.neighbours import Antonyms, Neighbours
from robustlab.attack.recipe import Options, Recipe
from robustlab.attack.words import Words
from robustlab.errors import UserError

__all__ = [
    "LOOK_ALIKES",
    "DeleteWord",
    "Drawn",
    "Perturbation",
    "Synonyms",
    "build_perturbations",
    "homoglyphs",
    "invisible_characters",
    "keyboard_typos",
    "reorderings",
]


class Perturbation(Protocol):
    """A kind of change to one word."""

    def __call__(self, words: Words, position: int, rng: np.random.Generator) -> Sequence[str]:
        """What the word at a position may become, the mildest first; never what it is already."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Some of all spellings that ``spellings`` makes of a word, chosen at random."""

    spellings: Callable[[str], Iterator[str]]
    per_word: int

    def __call__(self, words: Words, position: int, rng: np.random.Generator) -> Sequence[str]:
        """At most ``per_word`` of them, in the order in which they are made."""
        word = words.words[position]
        every = [spelling for spelling in dict.fromkeys(self.spellings(word)) if spelling != word]
        drawn = rng.permutation(len(every))[: self.per_word]
        return [every[number] for number in sorted(drawn.tolist())]


@dataclass(frozen=True, slots=True)
class DeleteWord:
    """The word goes."""

    def __call__(self, words: Words, position: int, rng: np.random.Generator) -> Sequence[str]:
        """The empty word."""
        return [""]


@dataclass(frozen=True, slots=True)
class Synonyms:
    """Neighbours of the word, in capitals where it has them."""

    neighbours: Neighbours

    def __call__(self, words: Words, position: int, rng: np.random.Generator) -> Sequence[str]:
        """The nearest first."""
        word = words.words[position]
        return [_in_case_of(word, other) for other in self.neighbours.of(word.lower())]


def build_perturbations(
    recipe: Recipe, stopwords: Set[str]
) -> tuple[tuple[Perturbation, ...], Mapping[str, str]]:
    """The transformations that a native recipe lists, and what the run should say of them.

    ``stopwords``, in lower case, replace no word.

    Raises:
        UserError: none is listed, a kind does not exist, an option is wrong, or something that
            a transformation needs is missing.
    """
    if not recipe.transformations:
        raise UserError(
            f"the recipe {recipe.source} lacks a [[transformation]]: what a word may become"
        )
    perturbations: list[Perturbation] = []
    notes: dict[str, str] = {}
    for number, component in enumerate(recipe.transformations, start=1):
        place = f"transformation[{number}]"
        options = Options(recipe, place, component)
        if component.kind in _DRAWN:
            per_word = options.integer("per_word", minimum=1)
            perturbations.append(Drawn(_DRAWN[component.kind], per_word))
        elif component.kind == "delete-word":
            perturbations.append(DeleteWord())
        elif component.kind == "minilm-neighbours":
            choices = get_args(Antonyms)
            neighbours = Neighbours(
                options.integer("k", minimum=1),
                options.number("min_cosine"),
                choices[choices.index(options.choice("antonyms", choices))],
                stopwords,
            )
            perturbations.append(Synonyms(neighbours))
            notes["antonyms"] = neighbours.note
        else:
            raise UserError(
                f"the recipe {recipe.source} is wrong at {place}.kind: there is no transformation "
                f"{component.kind!r}; there are: {', '.join((*_DRAWN, *_OTHERS))}"
            )
        options.finish()
    return tuple(perturbations), notes


# Letters that look alike in most typefaces, from the confusables of Unicode (UTS #39): Cyrillic
# unless said otherwise.
LOOK_ALIKES: Mapping[str, str] = {
    "a": "\u0430", "c": "\u0441", "d": "\u0501", "e": "\u0435", "h": "\u04bb", "i": "\u0456",
    "j": "\u0458", "l": "\u04cf", "o": "\u043e", "p": "\u0440", "q": "\u051b", "s": "\u0455",
    "w": "\u051d", "x": "\u0445", "y": "\u0443",
    "g": "\u0261",  # Latin script g
    "n": "\u0578", "u": "\u057d",  # Armenian
    "v": "\u03bd",  # Greek
    "A": "\u0410", "B": "\u0412", "C": "\u0421", "E": "\u0415", "H": "\u041d", "I": "\u0406",
    "J": "\u0408", "K": "\u041a", "M": "\u041c", "O": "\u041e", "P": "\u0420", "S": "\u0405",
    "T": "\u0422", "X": "\u0425",
    "N": "\u039d", "Y": "\u03a5", "Z": "\u0396",  # Greek
}  # fmt: skip
"""A letter and its look-alike."""

_INVISIBLE = "\N{ZERO WIDTH SPACE}\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def homoglyphs(word: str) -> Iterator[str]:
    """One letter as its look-alike."""
    for place, letter in enumerate(word):
        yield word[:place] + LOOK_ALIKES.get(letter, letter) + word[place + 1 :]


def invisible_characters(word: str) -> Iterator[str]:
    """One character of no width inside; a word of one letter gets it behind."""
    for place in range(1, max(2, len(word))):
        for character in _INVISIBLE:
            yield word[:place] + character + word[place:]


def reorderings(word: str) -> Iterator[str]:
    """Two different letters side by side, stored in the wrong order and displayed in the right one.

    RIGHT-TO-LEFT OVERRIDE draws them from right to left, POP DIRECTIONAL FORMATTING ends that.
    Words that are not written from left to right alone are left as they are.
    """
    if any(unicodedata.bidirectional(character) != "L" for character in word):
        return
    start, end = "\N{RIGHT-TO-LEFT OVERRIDE}", "\N{POP DIRECTIONAL FORMATTING}"
    for place, (first, second) in enumerate(pairwise(word)):
        if first != second:
            yield f"{word[:place]}{start}{second}{first}{end}{word[place + 2 :]}"


_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # each row half a key further to the right


def keyboard_typos(word: str) -> Iterator[str]:
    """One slip on a QWERTY keyboard: a neighbouring key, or a key missed, hit twice or too early.

    A word of one letter is not missed altogether.
    """
    for place, letter in enumerate(word):
        before, after = word[:place], word[place + 1 :]
        for key in _NEXT_KEYS.get(letter.lower(), ""):
            yield before + (key.upper() if letter.isupper() else key) + after
        if len(word) > 1:
            yield before + after
        yield before + letter + letter + after
        if after:
            yield before + after[0] + letter + after[1:]


def _next_keys() -> dict[str, str]:
    """The letters whose keys touch each letter's key."""
    places = {
        key: (row, column + 0.5 * row)
        for row, keys in enumerate(_KEYS)
        for column, key in enumerate(keys)
    }
    return {
        key: "".join(
            other
            for other, (other_row, other_column) in places.items()
            if other != key and abs(other_row - row) <= 1 and abs(other_column - column) <= 1
        )
        for key, (row, column) in places.items()
    }


_NEXT_KEYS = _next_keys()

_DRAWN: Mapping[str, Callable[[str], Iterator[str]]] = {
    "homoglyph": homoglyphs,
    "invisible-character": invisible_characters,
    "reordering": reorderings,
    "keyboard-typo": keyboard_typos,
}
_OTHERS = ("delete-word", "minilm-neighbours")


def _in_case_of(word: str, other: str) -> str:
    """``other``, which is in lower case, capitalised like ``word``."""
    if len(word) > 1 and word.isupper():
        return other.upper()
    return other.capitalize() if word[:1].isupper() else other
