"""Whether a final text keeps the constraints of one of TextAttack's attacks.

In a search TextAttack holds each step to the constraints, some of them against the step before.
What counts is the final text against the original, whatever way led there.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from robustlab.attack.textattack_bridge import own_parts
from robustlab.attack.textattack_resources import hyphened, import_textattack
from robustlab.models.target import TextInput

__all__ = ["attacked_text", "first_broken"]

_Step = tuple[int, str]
"""A word by its place, and what takes its place: another, several, or none."""


def attacked_text(text: TextInput) -> Any:
    """TextAttack's form of a text or a pair; the columns are ``text`` and ``text_pair``."""
    AttackedText = import_textattack().shared.AttackedText  # noqa: N806
    if isinstance(text, str):
        return AttackedText(text)
    return AttackedText(OrderedDict(text=text[0], text_pair=text[1]))


def first_broken(attack: Any, original: TextInput, perturbed: TextInput) -> str | None:
    """The first of an attack's constraints that does not hold against the original, or None.

    Constraints on which words may be changed are asked about each changed word, one after the
    other, so that those on their number see it grow. What cannot be told from two texts is left
    out: constraints against the step before, and those that compare word by word where the texts
    have different numbers of words. The attack's constraints may ask the engine for embeddings, so
    this runs inside of :func:`~robustlab.attack.textattack_bridge.requests_of`.
    """
    before, after = attacked_text(original), attacked_text(perturbed)
    current = before
    for index, word in _steps(before.words, after.words):
        for constraint in attack.pre_transformation_constraints:
            if index not in constraint(current, attack.transformation):
                return f"{_name(constraint)} does not let {current.words[index]!r} change"
        current = current.replace_word_at_index(index, word)
    changed: set[int] = current.attack_attrs["modified_indices"]
    attributes = {
        "last_transformation": attack.transformation,
        "modified_indices": changed,
        "original_index_map": current.attack_attrs["original_index_map"],
        "previous_attacked_text": before,
    }
    for constraint in attack.constraints:
        for newly in _looks(constraint, before, after, changed):
            after.attack_attrs.update(attributes, newly_modified_indices=newly)
            if not len(constraint.call_many([after], before)):
                return f"{_name(constraint)} does not hold against the original"
    return None


def _looks(constraint: Any, before: Any, after: Any, changed: set[int]) -> list[set[int]]:
    """The changed words that a constraint is told of at once; no call if it cannot be checked."""
    textattack = import_textattack()
    from textattack.constraints.semantics.sentence_encoders import SentenceEncoder

    word_by_word = isinstance(
        constraint, textattack.constraints.semantics.WordEmbeddingDistance
    ) or type(constraint).__module__.startswith("textattack.constraints.grammaticality")
    if not constraint.compare_against_original:
        return []
    if word_by_word and before.num_words != after.num_words:
        return []
    if isinstance(constraint, SentenceEncoder) and not isinstance(
        constraint, own_parts().similarity
    ):
        # TextAttack's encoders look at one changed word of several, and fail where there is none.
        return [{index} for index in sorted(changed)]
    return [changed]


def _steps(before: list[str], after: list[str]) -> Iterator[_Step]:
    """The replacements, one word at a time and from the left, that make ``after`` of ``before``.

    Places count in the words as they are when the step is taken.
    """
    shift = 0
    for start, end, new_start, new_end in _changes(before, after):
        new = after[new_start:new_end]
        old = before[start:end]
        if len(old) == len(new):
            for offset, word in enumerate(new):
                yield start + shift + offset, word
        elif old:
            yield start + shift, " ".join(new)
            for _ in old[1:]:
                yield start + shift + len(new), ""
        elif start < len(before):
            yield start + shift, " ".join([*new, before[start]])
        elif before:
            yield start + shift - 1, " ".join([before[-1], *new])
        shift += len(new) - len(old)


def _changes(before: list[str], after: list[str]) -> list[tuple[int, int, int, int]]:
    """Runs of words that differ, as (start, end) in both: the fewer of two ways to see it."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    aligned = [tuple(places) for tag, *places in matcher.get_opcodes() if tag != "equal"]
    if len(before) == len(after):
        in_place = [
            (i, i + 1, i, i + 1)
            for i, (old, new) in enumerate(zip(before, after, strict=True))
            if old != new
        ]
        if len(in_place) <= sum(max(b - a, d - c) for a, b, c, d in aligned):
            return in_place
    return [(a, b, c, d) for a, b, c, d in aligned]


def _name(constraint: Any) -> str:
    return hyphened(type(constraint).__name__)
