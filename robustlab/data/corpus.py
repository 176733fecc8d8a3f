"""Corpora: passages to retrieve from, with the questions asked of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from robustlab.data.beir import read_beir
from robustlab.data.records import Corpus, Passage, Question
from robustlab.data.rows import (
    ROW_SUFFIXES,
    Rejects,
    Row,
    answers_field,
    id_field,
    parse_rows,
    pick_column,
    read_rows,
    text_field,
)
from robustlab.data.sources import load_hub, path_of, source_name
from robustlab.data.splits import ONLY_SPLIT
from robustlab.data.squad import read_squad
from robustlab.errors import UserError

__all__ = ["ANSWERS_COLUMNS", "PASSAGE_COLUMNS", "QUESTION_COLUMNS", "load_corpus"]

PASSAGE_COLUMNS = ("text", "context", "passage", "paragraph", "contents")
"""Columns tried, in this order, for a passage's text when none is asked for."""

QUESTION_COLUMNS = ("question", "query")
"""Columns tried for a question; a source with none of them is passages alone."""

ANSWERS_COLUMNS = ("answers", "answer")
"""Columns tried for a question's answers."""

_ID_COLUMNS = ("_id", "id")


def load_corpus(
    spec: str,
    *,
    id_column: str | None = None,
    title_column: str | None = None,
    text_column: str | None = None,
    question_column: str | None = None,
    answers_column: str | None = None,
    skip_bad_rows: bool = False,
) -> Corpus:
    """A corpus.

    ``spec`` is a BEIR folder (``corpus.jsonl``, ``queries.jsonl``, ``qrels/SPLIT.tsv``), a SQuAD
    file (``.json``, version 1 or 2), a file of rows (``.jsonl``, ``.csv``, ``.tsv``), the name
    of a shipped corpus, or ``hf:NAME[:CONFIG]``.

    A row is one passage, or, where it has a question column, a question with its answers and
    its passage; equal passages are then kept once. The column options are for rows; columns not
    asked for are looked up in :data:`PASSAGE_COLUMNS`, :data:`QUESTION_COLUMNS` and
    :data:`ANSWERS_COLUMNS`. A source without splits has the split ``all``.

    Duplicate ids, an empty corpus and qrels naming unknown ids raise :class:`UserError`. So does
    a malformed row, with file and line, unless ``skip_bad_rows`` is set: then it is counted.
    """
    rejects = Rejects(skip_bad_rows)
    columns = _Columns(id_column, title_column, text_column, question_column, answers_column)
    path = path_of(spec)
    if path is None:
        hub = load_hub(spec)
        corpus = _from_rows(
            {split: hub.rows(split) for split in hub.splits}, columns, rejects, spec, hub.name
        )
    elif path.is_dir():
        corpus = read_beir(path, source_name(path), rejects)
    elif path.suffix == ".json":
        corpus = read_squad(path, source_name(path), rejects)
    elif path.suffix in ROW_SUFFIXES:
        rows = {ONLY_SPLIT: read_rows(path, rejects)}
        corpus = _from_rows(rows, columns, rejects, str(path), source_name(path))
    else:
        raise UserError(
            f"{path}: unknown kind of file; a corpus is a folder or one of .json, "
            f"{', '.join(ROW_SUFFIXES)}"
        )
    if not corpus.passages:
        raise UserError(f"the corpus {spec} is empty")
    return replace(corpus, skipped_rows=rejects.count)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns asked for; None where the defaults are to be tried."""

    id: str | None
    title: str | None
    text: str | None
    question: str | None
    answers: str | None

    def found_in(self, row: Row, source: str) -> _Columns:
        """The columns that a source has, judged by its first row."""
        found = _Columns(
            pick_column(row, self.id, _ID_COLUMNS, "id", source),
            pick_column(row, self.title, ("title",), "title", source),
            pick_column(row, self.text, PASSAGE_COLUMNS, "text", source),
            pick_column(row, self.question, QUESTION_COLUMNS, "question", source),
            pick_column(row, self.answers, ANSWERS_COLUMNS, "answers", source),
        )
        if found.text is None:
            raise UserError(
                f"{source} has no text column ({', '.join(PASSAGE_COLUMNS)}); its columns are: "
                f"{', '.join(row.fields)}; name one with --text-column"
            )
        return found


@dataclass(slots=True)
class _Gathered:
    """Passages and questions as they are read."""

    passages: dict[str, Passage] = field(default_factory=dict)
    passage_ids: dict[tuple[str, str], str] = field(default_factory=dict)
    questions: dict[str, list[Question]] = field(default_factory=dict)
    question_ids: set[str] = field(default_factory=set)


def _from_rows(
    splits: Mapping[str, Iterator[Row]],
    columns: _Columns,
    rejects: Rejects,
    source: str,
    name: str,
) -> Corpus:
    gathered = _Gathered()
    for split, rows in splits.items():
        first = next(rows, None)
        if first is None:
            continue
        found = columns.found_in(first, source)
        _gather(chain([first], rows), split, found, gathered, rejects)
    return Corpus(
        name,
        tuple(gathered.passages.values()),
        {split: tuple(questions) for split, questions in gathered.questions.items()},
    )


def _gather(
    rows: Iterable[Row], split: str, columns: _Columns, gathered: _Gathered, rejects: Rejects
) -> None:
    def parse(row: Row) -> tuple[Passage, Question | None]:
        assert columns.text is not None  # found_in raised otherwise
        title = ""
        if columns.title and row.fields.get(columns.title) is not None:
            title = text_field(row, columns.title, may_be_empty=True)
        text = text_field(row, columns.text, may_be_empty=bool(title))
        key = id_field(row, columns.id) if columns.id else ""
        if columns.question is None:
            return Passage(key or f"p{len(gathered.passages)}", title, text), None
        known = gathered.passage_ids.get((title, text), f"p{len(gathered.passages)}")
        question = Question(
            key or f"q{len(gathered.question_ids)}",
            text_field(row, columns.question),
            answers_field(row, columns.answers) if columns.answers else (),
            (known,),
        )
        return Passage(known, title, text), question

    for row, (passage, question) in parse_rows(rows, parse, rejects):
        if question is None:
            if passage.id in gathered.passages:
                raise UserError(f"{row.place}: a second passage has the id {passage.id!r}")
        else:
            if question.id in gathered.question_ids:
                raise UserError(f"{row.place}: a second question has the id {question.id!r}")
            gathered.question_ids.add(question.id)
            gathered.questions.setdefault(split, []).append(question)
        gathered.passages[passage.id] = passage
        gathered.passage_ids[passage.title, passage.text] = passage.id
