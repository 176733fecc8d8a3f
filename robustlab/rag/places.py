"""Where an answer stands in a passage."""

from __future__ import annotations

import re

__all__ = ["find_answer"]


def find_answer(answer: str, text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of an answer in a text, from left to right.

    Upper and lower case are the same, any white space matches any other, and the answer begins
    and ends at the border of a word: ``art`` is not found in ``start``. An answer without
    visible characters is found nowhere.
    """
    words = answer.split()
    if not words:
        return []
    pattern = r"\s+".join(re.escape(word) for word in words)
    # A border is asked for only beside a word character: "$5" may follow "US".
    if _is_word(words[0][0]):
        pattern = rf"(?<!\w){pattern}"
    if _is_word(words[-1][-1]):
        pattern = rf"{pattern}(?!\w)"
    return [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]


def _is_word(character: str) -> bool:
    return re.match(r"\w", character) is not None
