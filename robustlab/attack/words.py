"""A text as its words, and what stands between them.

A word is a run of letters, digits and the marks that combine with them, joined inside by
apostrophes and hyphens: ``don't`` and ``half-baked`` are one word each, ``either/or`` are two, and
punctuation belongs to none. Attacks change words and leave everything else as it is.

What an edit is, is another matter: edits are counted between white space, as
:func:`~robustlab.metrics.robustness.changed_words` does it, in whatever the attack wrote.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from robustlab.metrics.robustness import changed_words
from robustlab.models.target import TextInput

__all__ = ["Words", "edits", "fields"]

_JOINERS = "'’-\N{HYPHEN}\N{NON-BREAKING HYPHEN}"
_WORD = re.compile("w+(?:-w+)*")


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text, and the gaps before, between and behind them.

    ``gaps`` has one entry more than ``words``. A word may be empty: it was deleted and keeps its
    place, so that a position means the same word in the original and in all that is made of it.
    """

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Words:
        """Split a text; :attr:`text` puts it together again, character for character."""
        shape = "".join(map(_kind, text))
        spans = [match.span() for match in _WORD.finditer(shape)]
        ends = [0, *(end for _, end in spans)]
        starts = [*(start for start, _ in spans), len(text)]
        return cls(
            tuple(text[start:end] for start, end in spans),
            tuple(text[end:start] for end, start in zip(ends, starts, strict=True)),
        )

    def __len__(self) -> int:
        """How many words there are, deleted ones included."""
        return len(self.words)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Where each word stands in a text none of whose words was deleted."""
        spans = []
        place = 0
        for gap, word in zip(self.gaps, self.words, strict=False):
            start = place + len(gap)
            place = start + len(word)
            spans.append((start, place))
        return tuple(spans)

    @property
    def text(self) -> str:
        """The text. Of the space on both sides of a deleted word, that behind it goes too."""
        text = self.gaps[0]
        for word, gap in zip(self.words, self.gaps[1:], strict=True):
            if word:
                text += word + gap
            elif not gap:
                text = text.rstrip()
            elif not text or text[-1].isspace():
                text += gap.lstrip()
            else:
                text += gap
        return text

    def replace(self, position: int, word: str) -> Words:
        """The same with another word at a position; the empty word deletes it."""
        words = (*self.words[:position], word, *self.words[position + 1 :])
        return Words(words, self.gaps)

    def delete(self, position: int) -> Words:
        """The same without the word at a position."""
        return self.replace(position, "")

    def changed(self, original: Words) -> tuple[int, ...]:
        """The positions whose words differ from the original's."""
        pairs = zip(self.words, original.words, strict=True)
        return tuple(i for i, (own, old) in enumerate(pairs) if own != old)


def fields(text: TextInput) -> tuple[str, ...]:
    """The one text, or both of a pair."""
    return (text,) if isinstance(text, str) else text


def edits(original: TextInput, perturbed: TextInput) -> int:
    """Words changed between white space, in both texts of a pair together."""
    pairs = zip(fields(original), fields(perturbed), strict=True)
    return sum(len(changed_words(before, after)) for before, after in pairs)


def _kind(character: str) -> str:
    """What a character is to a word: ``w``, a part; ``-``, a joint; else a space."""
    if character.isalnum() or unicodedata.category(character).startswith("M"):
        return "w"
    return "-" if character in _JOINERS else " "
