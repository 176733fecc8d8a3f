"""What a pipeline is attacked on: questions, the wrong answers wanted, adversarial texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustlab.data.corpus import load_corpus
from robustlab.data.questions import QuestionSet, about_corpus, check_answers, load_questions
from robustlab.data.records import Corpus, Question, content_hash
from robustlab.data.splits import sample
from robustlab.errors import UserError
from robustlab.models.target import Target
from robustlab.poisoning.campaign import PoisonItem, PoisonSet
from robustlab.poisoning.generated import write_texts
from robustlab.poisoning.records import (
    PoisonRecord,
    check_questions,
    load_poison,
    poison_fingerprint,
    questions_of,
)
from robustlab.poisoning.wrong import wrong_answer

__all__ = ["Source", "load_source"]


@dataclass(frozen=True, slots=True)
class Source:
    """Questions to attack, as they were loaded once for all recipes.

    ``every`` are all questions of the data, whatever their split: wrong answers are taken from
    them. ``records`` are those of a poison file, by question id.
    """

    asked: QuestionSet
    every: tuple[Question, ...]
    records: Mapping[str, PoisonRecord]
    arguments: Mapping[str, Any]

    @property
    def corpus(self) -> Corpus:
        """The clean corpus."""
        return self.asked.corpus

    def poisoned(
        self, *, seed: int, count: int, writer: Target | None = None, wanted: bool = True
    ) -> PoisonSet:
        """The questions with wrong answers and texts.

        Args:
            seed: chooses among wrong answers that would do.
            count: how many texts ``writer`` is to write for each question.
            writer: the adversary's own generator.
            wanted: whether the goal is a wrong answer at all. Questions for which there is none
                are left out then; the manifest says how many.

        Raises:
            UserError: no question is left.
        """
        items = [self._item(question, seed) for question in self.asked.items]
        if wanted:
            items = [item for item in items if item.wrong is not None]
        if not items:
            raise UserError(
                f"no question of {self.asked.name} has both a right answer and a wrong one that "
                "could be wanted; give wrong answers with --poison"
            )
        about: dict[str, Any] = {}
        if writer is not None:
            asked = sum(item.wrong is not None for item in items) * count
            items, kept = write_texts(items, writer, count)
            about = {"adversary": {**writer.describe(), "texts_asked": asked, "texts_kept": kept}}
        return self._set(items, about)

    def training(self) -> PoisonSet:
        """The training split of the same data, for a poison that all questions share.

        Raises:
            UserError: there is none.
        """
        data = load_questions(**{**self.arguments, "split": "train", "limit": None})
        trained = replace(self, asked=data, records={})
        return trained._set([PoisonItem(question) for question in data.items], {})

    def _item(self, question: Question, seed: int) -> PoisonItem:
        record = self.records.get(question.id)
        if record is not None:
            return PoisonItem(question, record.incorrect_answer, record.adversarial_texts)
        if not question.answers:
            return PoisonItem(question)
        passages = self.asked.passages
        gold = [passages[key] for key in question.gold if key in passages]
        others = [other for other in self.every if other.id != question.id]
        return PoisonItem(question, wrong_answer(question, others, gold, seed=seed))

    def _set(self, items: Sequence[PoisonItem], about: Mapping[str, Any]) -> PoisonSet:
        wanted = content_hash(
            part
            for item in items
            for part in (item.question.id, item.wrong or "", content_hash(item.texts))
        )
        data = {
            **self.asked.data,
            **about,
            "items": len(items),
            "left_out": len(self.asked.items) - len(items),
            "fingerprint": content_hash([str(self.asked.data["fingerprint"]), wanted]),
        }
        return PoisonSet(tuple(items), self.asked.passages, data)


def load_source(
    corpus_spec: str,
    data_spec: str | None,
    *,
    poison: Path | None,
    split: str | None,
    limit: int | None,
    seed: int,
    columns: Mapping[str, str],
    skip_bad_rows: bool,
) -> Source:
    """Load corpus, questions and poison file.

    With a poison file only its questions are attacked, those of every split unless one is asked
    for. Where ``data_spec`` names the poison file itself, its own questions are asked; they have no
    gold passages.

    Raises:
        UserError: what cannot be read or does not fit together.
    """
    arguments: dict[str, Any] = {
        "corpus_spec": corpus_spec,
        "data_spec": data_spec,
        "split": split,
        "limit": limit,
        "seed": seed,
        "columns": columns,
        "skip_bad_rows": skip_bad_rows,
    }
    records = () if poison is None else load_poison(poison)
    by_id = {record.query_id: record for record in records}
    if poison is not None and data_spec is not None and Path(data_spec) == Path(poison):
        asked = _own_questions(corpus_spec, records, poison, limit, seed, columns, skip_bad_rows)
        return Source(asked, asked.items, by_id, arguments)
    if poison is None:
        asked = load_questions(**arguments)
        check_answers(asked.items, asked.name)
        return Source(asked, _every(asked, arguments), {}, arguments)
    asked, every = _named_questions(arguments, split)
    check_questions(records, {question.id: question for question in every})
    chosen = sample([question for question in asked.items if question.id in by_id], limit, seed)
    if not chosen:
        raise UserError(
            f"no question of {poison} is in the split {split} of {asked.name}; leave --split out "
            "to attack all of its questions"
        )
    data = {**asked.data, **_about(poison, records), "items": len(chosen), "available": len(by_id)}
    return Source(replace(asked, items=tuple(chosen), data=data), every, by_id, arguments)


def _named_questions(
    arguments: Mapping[str, Any], split: str | None
) -> tuple[QuestionSet, tuple[Question, ...]]:
    """The questions of a split, or of all where none is asked for, and those of all splits."""
    asked = load_questions(**{**arguments, "limit": None})
    every = _every(asked, arguments)
    if split is not None:
        return asked, every
    return replace(asked, items=every, data={**asked.data, "split": "all"}), every


def _every(asked: QuestionSet, arguments: Mapping[str, Any]) -> tuple[Question, ...]:
    """All questions of the data, each id once."""
    source = asked.corpus
    if arguments["data_spec"] not in (None, arguments["corpus_spec"]):
        source = load_corpus(
            arguments["data_spec"],
            skip_bad_rows=arguments["skip_bad_rows"],
            **arguments["columns"],
        )
    found = {q.id: q for questions in source.questions.values() for q in questions}
    return tuple(found.values())


def _own_questions(
    corpus_spec: str,
    records: Sequence[PoisonRecord],
    poison: Path,
    limit: int | None,
    seed: int,
    columns: Mapping[str, str],
    skip_bad_rows: bool,
) -> QuestionSet:
    """The questions of a poison file, asked of a corpus."""
    corpus = load_corpus(corpus_spec, skip_bad_rows=skip_bad_rows, **columns)
    every = questions_of(records)
    items = sample(every, limit, seed)
    data = {
        "spec": str(poison),
        "name": Path(poison).stem,
        "split": "all",
        "items": len(items),
        "available": len(every),
        "skipped_rows": 0,
        **_about(poison, records),
        "corpus": about_corpus(corpus, corpus_spec),
    }
    passages = {passage.id: passage for passage in corpus.passages}
    return QuestionSet(corpus, Path(poison).stem, tuple(items), passages, data)


def _about(poison: Path, records: Sequence[PoisonRecord]) -> dict[str, Any]:
    """What the manifest says of a poison file; its fingerprint stands for its questions."""
    fingerprint = poison_fingerprint(records)
    return {
        "fingerprint": fingerprint,
        "poison": {"path": str(poison), "records": len(records), "fingerprint": fingerprint},
    }
