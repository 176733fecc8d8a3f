"""What the data is made of: labelled examples, questions, passages and corpora.

Records are frozen: an attack can only ever produce a new text beside the original one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["Corpus", "LabelledExample", "LabelledSet", "Passage", "Question", "content_hash"]


@dataclass(frozen=True, slots=True)
class LabelledExample:
    """One text, or a pair of texts, with its class.

    ``label`` indexes the label names of the set it comes from.
    """

    id: str
    text: str
    label: int
    text_pair: str | None = None

    @property
    def contents(self) -> str | tuple[str, str]:
        """The text, or both texts: what a classifier reads and an attack may change."""
        return self.text if self.text_pair is None else (self.text, self.text_pair)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with the answers that count as right and the passages that state them."""

    id: str
    text: str
    answers: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()
    """Ids of the relevant passages (the qrels with a positive score)."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage of a corpus, the unit of retrieval."""

    id: str
    title: str
    text: str

    @property
    def contents(self) -> str:
        """Title and text as one string: what encoders index and readers read."""
        return f"{self.title}. {self.text}" if self.title else self.text


def content_hash(parts: Iterable[str]) -> str:
    """SHA-256 over strings, each preceded by its length so that borders count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """The examples of one split of a classification set, in file order."""

    name: str
    split: str
    label_names: tuple[str, ...]
    examples: tuple[LabelledExample, ...]
    skipped_rows: int = 0

    def fingerprint(self) -> str:
        """Hash of ids, texts and labels in order; goes into every run's manifest."""
        return content_hash(
            part
            for example in self.examples
            for part in (example.id, example.text, example.text_pair or "", str(example.label))
        )


@dataclass(frozen=True, slots=True)
class Corpus:
    """Passages to retrieve from, and questions on them by split.

    Ids are unique; a reader that finds a duplicate raises :class:`~robustlab.errors.UserError`.
    """

    name: str
    passages: tuple[Passage, ...]
    questions: Mapping[str, tuple[Question, ...]] = field(default_factory=dict)
    """Split name -> questions that the split's qrels name, in file order."""
    skipped_rows: int = 0

    def fingerprint(self) -> str:
        """Hash of the passages alone: what an index is built from."""
        return content_hash(
            part for passage in self.passages for part in (passage.id, passage.title, passage.text)
        )
