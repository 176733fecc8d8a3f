"""``poison.jsonl``: adversarial texts that somebody wrote for questions, to be replayed.

One JSON object a line, as PoisonedRAG's published texts have it::

    {"query_id": "q1", "question": "…", "correct_answers": ["…"], "incorrect_answer": "…",
     "adversarial_texts": ["…", "…"]}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustlab.data.records import Passage, Question, content_hash
from robustlab.data.rows import (
    BadRowError,
    Rejects,
    Row,
    answers_field,
    id_field,
    parse_rows,
    read_rows,
    text_field,
)
from robustlab.errors import UserError
from robustlab.metrics.answers import exact_match, normalise
from robustlab.rag.pipeline import RagPipeline

__all__ = [
    "PoisonRecord",
    "check_fit",
    "check_questions",
    "load_poison",
    "poison_fingerprint",
    "questions_of",
]


@dataclass(frozen=True, slots=True)
class PoisonRecord:
    """The adversarial texts for one question. ``place`` is its file and line, for messages."""

    query_id: str
    question: str
    correct_answers: tuple[str, ...]
    incorrect_answer: str
    adversarial_texts: tuple[str, ...]
    place: str


_KEYS = ("query_id", "question", "correct_answers", "incorrect_answer", "adversarial_texts")


def load_poison(path: Path) -> tuple[PoisonRecord, ...]:
    """Read a poison file.

    Raises:
        UserError: what is wrong with it and in which line; among it a second record of a question,
            and a wrong answer that is a right one.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: adversarial texts are read from a .jsonl file")
    rejects = Rejects()
    records: dict[str, PoisonRecord] = {}
    for row, record in parse_rows(read_rows(path, rejects), _parse, rejects):
        if record.query_id in records:
            raise UserError(f"{row.place}: a second record of the question {record.query_id!r}")
        records[record.query_id] = record
    if not records:
        raise UserError(f"the poison file {path} is empty")
    return tuple(records.values())


def check_questions(records: Sequence[PoisonRecord], questions: Mapping[str, Question]) -> None:
    """Refuse a file for other questions than these, all of a corpus by id.

    Raises:
        UserError: an id that is not there, another question under it, or a wrong answer that the
            corpus has for a right one.
    """
    for record in records:
        question = questions.get(record.query_id)
        if question is None:
            raise UserError(
                f"{record.place}: the corpus has no question with the id {record.query_id!r}; give "
                "the corpus that the file belongs to, or the file itself as --data to ask its own "
                "questions"
            )
        if normalise(question.text) != normalise(record.question):
            raise UserError(
                f"{record.place}: the question {record.query_id!r} of the corpus is another one: "
                f"{question.text!r}"
            )
        _check_wrong(record, question.answers)


def check_fit(records: Iterable[PoisonRecord], pipeline: RagPipeline) -> None:
    """Refuse adversarial texts that no prompt has room for.

    Raises:
        UserError: a text that does not fit into the generator's context, even alone with its
            question.
    """
    texts = [(record, text) for record in records for text in record.adversarial_texts]
    prompts = [
        pipeline.template.render(record.question, [Passage("poison", "", text)])
        for record, text in texts
    ]
    limit = pipeline.generator.input_limit(pipeline.max_new_tokens)
    lengths = pipeline.generator.count_tokens_many(prompts) if prompts else []
    for (record, text), length in zip(texts, lengths, strict=True):
        if length > limit:
            number = record.adversarial_texts.index(text) + 1
            raise UserError(
                f"{record.place}: adversarial text {number} is longer than the context: with its "
                f"question it takes {length} tokens, and {pipeline.generator.spec} reads {limit}"
            )


def questions_of(records: Iterable[PoisonRecord]) -> tuple[Question, ...]:
    """The questions of a file; it names no gold passages."""
    return tuple(
        Question(record.query_id, record.question, record.correct_answers) for record in records
    )


def poison_fingerprint(records: Iterable[PoisonRecord]) -> str:
    """Hash of what the records say."""
    return content_hash(
        part
        for record in records
        for part in (
            record.query_id,
            record.question,
            content_hash(record.correct_answers),
            record.incorrect_answer,
            content_hash(record.adversarial_texts),
        )
    )


def _parse(row: Row) -> PoisonRecord:
    unknown = [key for key in row.fields if key not in _KEYS]
    if unknown:
        raise BadRowError(f"unknown field {unknown[0]!r}; there are: {', '.join(_KEYS)}")
    record = PoisonRecord(
        id_field(row, "query_id"),
        text_field(row, "question"),
        _texts(row, "correct_answers"),
        text_field(row, "incorrect_answer"),
        _texts(row, "adversarial_texts"),
        row.place,
    )
    _check_wrong(record, record.correct_answers)
    return record


def _texts(row: Row, column: str) -> tuple[str, ...]:
    texts = answers_field(row, column)
    if not texts or not all(map(str.strip, texts)):
        raise BadRowError(f"{column!r} must be a list of texts, none of them empty")
    return texts


def _check_wrong(record: PoisonRecord, right: Sequence[str]) -> None:
    if right and exact_match(record.incorrect_answer, right):
        raise UserError(
            f"{record.place}: the incorrect answer {record.incorrect_answer!r} is a right one"
        )
