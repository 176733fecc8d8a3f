"""Words that may stand for a word: its neighbours among MiniLM's input embeddings.

The counter-fitted vectors that TextFooler and its kin take their synonyms from have to be
downloaded. MiniLM is there always, and the row of its embedding layer for a word that is one
token says what the word means: of *terrible* the nearest are horrible, awful, dreadful, horrific
and bad. (Encoding each word as a sentence of its own was tried as well. It takes a minute instead
of a quarter of a second, and mixes topics into the neighbours: of *never*, whenever and when.)

Distributional vectors put opposites near each other. Antonyms are dropped with WordNet's help if
it is on this machine; inflections of the word itself, which are no synonyms, by their spelling.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.wordnet import find_wordnet
from robustlab.errors import UserError
from robustlab.resources import minilm_folder

__all__ = ["Antonyms", "Neighbours"]

Antonyms: TypeAlias = Literal["exclude", "exclude-if-known", "keep"]
"""What becomes of antonyms: ``exclude`` needs WordNet, ``exclude-if-known`` does without."""

_EMBEDDINGS = "embeddings.word_embeddings.weight"
_WHOLE_WORD = re.compile("[a-z]{3,}")

# A synonym has the same one of these endings, or like the word none of them.
_INFLECTIONS = ("ing", "ed", "est", "ly", "s")


@dataclass(frozen=True)
class Neighbours:
    """The nearest words of a word.

    Args:
        k: how many at most.
        min_cosine: how near they have to be.
        antonyms: see :data:`Antonyms`.
        stopwords: words in lower case that replace nothing.

    Raises:
        UserError: WordNet is needed, and is not on this machine.
    """

    k: int
    min_cosine: float
    antonyms: Antonyms = "keep"
    stopwords: Set[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse what this machine cannot do."""
        if self.antonyms == "exclude" and find_wordnet() is None:
            raise UserError(
                "antonyms are excluded with WordNet, which is not on this machine: put wordnet.zip "
                "into corpora/ of a folder that the variable NLTK_DATA names"
            )

    @property
    def note(self) -> str:
        """What became of antonyms, for the run."""
        if self.antonyms == "keep":
            return "kept"
        wordnet = find_wordnet()
        if wordnet is None:
            return "kept, because WordNet is not on this machine"
        return f"excluded with WordNet {wordnet.version}"

    def of(self, word: str) -> tuple[str, ...]:
        """Neighbours of a word in lower case, the nearest first; none for unknown words."""
        wordnet = None if self.antonyms == "keep" else find_wordnet()
        found: list[str] = []
        for other in _nearest(word, self.min_cosine):
            if len(found) == self.k:
                break
            if other in self.stopwords or _same_family(word, other):
                continue
            if wordnet is not None and wordnet.opposed(word, other):
                continue
            found.append(other)
        return tuple(found)


def _same_family(word: str, other: str) -> bool:
    """Whether one is an inflection of the other, or is inflected in another way.

    Spelling decides, roughly: words that share all but the last letter of the shorter one are
    taken for forms of one word (*love*, *loved*; *hate*, *hatred*), and an inflected word is only
    replaced by one with the same ending (*loved* by *adored*, not by *adore*).
    """
    if _ending(word) != _ending(other):
        return True
    shared = min(len(word), len(other)) - 1
    return word[:shared] == other[:shared]


def _ending(word: str) -> str:
    """The inflection that a word appears to carry, if any."""
    if word.endswith(("ss", "us", "is")):
        return ""
    return next((ending for ending in _INFLECTIONS if word.endswith(ending)), "")


@lru_cache(maxsize=4096)
def _nearest(word: str, min_cosine: float) -> tuple[str, ...]:
    """Other words by falling cosine; equal cosines in the order of the vocabulary."""
    words, places, vectors = _vocabulary()
    place = places.get(word)
    if place is None:
        return ()
    # Rounded, so that the order does not hang on the last bits of a matrix product.
    cosines = np.round(vectors @ vectors[place], 4)
    cosines[place] = -1.0
    near = np.flatnonzero(cosines >= min_cosine)
    order = near[np.argsort(-cosines[near], kind="stable")]
    return tuple(words[row] for row in order.tolist())


@cache
def _vocabulary() -> tuple[tuple[str, ...], dict[str, int], NDArray[np.float32]]:
    """MiniLM's W whole words, the row of each, and their embeddings of unit length, (W, 384)."""
    from safetensors import safe_open

    folder = minilm_folder()
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    ids = [number for number, token in enumerate(tokens) if _WHOLE_WORD.fullmatch(token)]
    with safe_open(str(folder / "model.safetensors"), framework="numpy") as file:
        vectors = file.get_tensor(_EMBEDDINGS)[ids]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    words = tuple(tokens[number] for number in ids)
    return words, {word: row for row, word in enumerate(words)}, vectors
