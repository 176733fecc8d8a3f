"""One question, answered with and without poison and with and without defences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustlab.defense.pipeline import DefendedRag, Explanation
from robustlab.rag.pipeline import RagPipeline

__all__ = ["SideBySide", "side_by_side"]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The same question over the clean corpus and over the poisoned one.

    ``poisoned`` is None without poison, the ``defended`` ones are None without defences.
    """

    clean: Explanation
    poisoned: Explanation | None
    defended_clean: Explanation | None
    defended_poisoned: Explanation | None


def side_by_side(pipeline: RagPipeline, question: str, poisons: Sequence[str] = ()) -> SideBySide:
    """Ask a pipeline, and where it is a defended one also what it is without its defences.

    Raises:
        UserError: a blank question, or one too long for the generator.
    """
    bare, defended = pipeline, None
    if isinstance(pipeline, DefendedRag):
        bare, defended = pipeline.undefended, pipeline
    undefended = DefendedRag(bare, ())

    def explained(which: DefendedRag | None, texts: Sequence[str] | None) -> Explanation | None:
        return None if which is None or texts is None else which.explain(question, texts)

    poison = tuple(poisons) or None
    return SideBySide(
        undefended.explain(question),
        explained(undefended, poison),
        explained(defended, ()),
        explained(defended, poison),
    )
