"""Is an answer right? Exact match and token F1 as SQuAD defines them.

Reference: Rajpurkar et al. 2016, *SQuAD: 100,000+ Questions for Machine Comprehension of Text*,
arXiv:1606.05250; for questions without an answer Rajpurkar et al. 2018, arXiv:1806.03822.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

__all__ = ["contains_answer", "exact_match", "normalise", "token_f1"]

_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> str:
    """The form in which answers are compared (SQuAD v1.1).

    Lower case, without ASCII punctuation, without the words *a*, *an* and *the*, with single
    spaces between the remaining words and none around them. Punctuation vanishes without
    leaving a space: ``U.S.`` becomes ``us`` and ``well-known`` becomes ``wellknown``.
    """
    words = _ARTICLE.sub(" ", text.lower().translate(_DROP_PUNCTUATION))
    return " ".join(words.split())


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Whether the prediction equals one of the answers.

    EM(p, A) = max over a in A of [norm(p) = norm(a)], where norm is :func:`normalise`. A question
    without answers (A empty) is answered rightly by an empty prediction and by no other.
    """
    found = normalise(prediction)
    return any(found == normalise(answer) for answer in answers or ("",))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Overlap of words between the prediction and the answer nearest to it, in [0, 1].

    F1(p, A) = max over a in A of 2·P·R / (P + R), with P = c / |p| and R = c / |a|, where |p| and
    |a| count the normalised words and c those in common, each as often as it stands in both.
    Where p or a has no words the value is 1 if both have none, else 0. A question without
    answers (A empty) gives 1 for an empty prediction and 0 for any other.
    """
    found = normalise(prediction).split()
    return max(_overlap(found, normalise(answer).split()) for answer in answers or ("",))


def contains_answer(prediction: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in the prediction as a run of whole words.

    Both are normalised first; ``cat`` does not stand in ``concatenate``. An answer without words
    stands only in a prediction without words, and no answers at all count as one without words,
    so that whatever :func:`exact_match` accepts is accepted here as well.
    """
    found = normalise(prediction)
    return any(_stands_in(normalise(answer), found) for answer in answers or ("",))


def _overlap(found: Sequence[str], wanted: Sequence[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    # 2PR / (P + R) with P = c/|p| and R = c/|a|, multiplied out.
    return 2 * common / (len(found) + len(wanted))


def _stands_in(words: str, text: str) -> bool:
    """Normalised words as a run of whole words of a normalised text."""
    return f" {words} " in f" {text} " if words else not text
