"""A plausible wrong answer to a question: what an adversary would have a reader say.

It is an answer of the same kind to another question of the corpus, so that nothing but the facts
speaks against it: a year for a year, a number with its unit for one with the same unit, a name for
a name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from robustlab.data.records import Passage, Question
from robustlab.metrics.answers import contains_answer, normalise
from robustlab.metrics.grounding import is_refusal

__all__ = ["answer_kind", "overlaps", "wrong_answer"]

_NUMBER_WORDS = frozenset(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety "
    "hundred thousand million billion dozen half".split()
)
_MONTHS = frozenset(
    "january february march april may june july august september october november december".split()
)
_REMEMBERED = 2**16  # texts: each is compared with all others
_ASKS = (
    "how many", "how much", "how long", "how old", "how far", "how tall", "how",
    "when", "where", "who", "whose", "why", "which", "what",
)  # fmt: skip
_PERSONS = frozenset(
    "architect artist astronaut astronomer author biologist botanist captain chemist composer "
    "designer doctor emperor engineer explorer general geologist inventor king man mathematician "
    "monk naturalist painter person philosopher physician physicist pilot poet president prince "
    "queen ruler scholar scientist sculptor surgeon woman writer".split()
)
_PLACES = frozenset(
    "bay capital city coast continent country county desert district island kingdom lake mountain "
    "museum ocean park peninsula port province region river sea site state strait town valley "
    "village".split()
)
_SMALL = frozenset("a an and are at by did do does for from in is it its of on or the to was were "
                   "with".split())  # fmt: skip


def wrong_answer(
    question: Question,
    others: Sequence[Question],
    gold: Iterable[Passage] = (),
    *,
    seed: int,
) -> str | None:
    """An answer to one of ``others`` that would be wrong here and looks as if it were not.

    It shares nothing with a right answer (:func:`overlaps`) and stands in no ``gold`` passage. Of
    all such answers the nearest are those that agree in the most of, in this order: a number's
    unit, what is asked for together with the kind, whether that is a person, a place or a thing,
    the kind, the number of words. Among the nearest a hash of ``seed`` and the question's id
    chooses, so that the order of the other questions has no part in it. None where no answer will
    do.
    """
    passages = [passage.contents for passage in gold]
    right = question.answers
    wanted = answer_kind(right[0]) if right else ""
    own = _words(right[0]) if right else ()
    asked = _asks(question.text)
    best: tuple[tuple[bool, ...], bytes, str] | None = None
    for other in others:
        if not other.answers:
            continue
        text = other.answers[0]
        words, same = _words(text), answer_kind(text) == wanted
        distance = (
            not (same and wanted == "number" and words[1:] and words[-1:] == own[-1:]),
            not (same and _asks(other.text) == asked),
            not (same and _class(_asks(other.text)) == _class(asked)),
            not same,
            abs(len(words) - len(own)) > 1,
        )
        if best is not None and distance > best[0]:
            continue
        place = (distance, _order(seed, question.id, text), text)
        # The dear part comes last: most answers are not as near as the best one so far.
        if (best is None or place < best) and not (
            is_refusal(text)
            or overlaps(text, right)
            or any(contains_answer(passage, (text,)) for passage in passages)
        ):
            best = place
    return None if best is None else best[2]


def overlaps(answer: str, right: Sequence[str]) -> bool:
    """Whether an answer could be taken for one of the right ones.

    It shares a word with one that is no small one; of two numbers only the numerals count, since
    ``20 years`` and ``30 years`` are as different as they can be.
    """
    return not normalise(answer) or any(_overlap(answer, one) for one in right)


_ARTICLE = re.compile(r"^(the|an?) ")


@lru_cache(maxsize=_REMEMBERED)
def answer_kind(answer: str) -> str:
    """``date``, ``number``, ``name`` or ``phrase``.

    A date is a year from 1000 to 2099 or has a month in it; a number begins with one, in digits or
    in words; a name begins with a capital letter, an article before it aside.
    """
    words = _words(answer)
    if re.fullmatch(r"(in )?(1\d|20)\d\d", " ".join(words)) or _MONTHS & set(words):
        return "date"
    if _numerals(words[:1]):
        return "number"
    return "name" if _ARTICLE.sub("", answer)[:1].isupper() else "phrase"


def _overlap(answer: str, right: str) -> bool:
    one, other = _words(answer), _words(right)
    if one == other:
        return True
    if _numerals(one) and _numerals(other):
        return bool(_numerals(one) & _numerals(other))
    return bool((set(one) & set(other)) - _SMALL)


def _numerals(words: Iterable[str]) -> set[str]:
    return {word for word in words if any(map(str.isdigit, word)) or word in _NUMBER_WORDS}


@lru_cache(maxsize=_REMEMBERED)
def _words(answer: str) -> tuple[str, ...]:
    return tuple(normalise(answer).split())


@lru_cache(maxsize=_REMEMBERED)
def _asks(question: str) -> str:
    """What is asked for: a question word, with its noun where one stands beside it.

    A person's trade is ``who`` and a kind of place ``where``.
    """
    joined = f" {' '.join(_words(question))} "
    found = [(joined.find(f" {asks} "), -len(asks), asks) for asks in _ASKS]
    found = [entry for entry in found if entry[0] >= 0]
    if not found:
        return ""
    place, _, asks = min(found)
    if asks not in ("which", "what"):
        return asks
    behind = [w for w in joined[place:].split()[1:4] if w not in _SMALL]
    if _PERSONS & set(behind):
        return "who"
    return "where" if _PLACES & set(behind) else f"which {behind[0] if behind else ''}"


def _class(asks: str) -> str:
    return asks if asks in ("who", "where") else "thing"


def _order(seed: int, key: str, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{key}\0{text}".encode()).digest()
