"""Wrong answers: of the same kind, and never right."""

from __future__ import annotations

import pytest

from robustlab.data import Passage, Question, load_corpus
from robustlab.metrics.answers import contains_answer, exact_match
from robustlab.poisoning.wrong import answer_kind, overlaps, wrong_answer


def asked(text: str, *answers: str, key: str = "q") -> Question:
    return Question(key, text, answers)


OTHERS = [
    asked("When did it close?", "1931", key="a"),
    asked("How tall is the tower?", "300 metres", key="b"),
    asked("How long is the bridge?", "1,280 metres", key="c"),
    asked("Which city has the tower?", "Paris", key="d"),
    asked("Who built the tower?", "Gustave Eiffel", key="e"),
    asked("What is it made of?", "wrought iron", key="f"),
    asked("What hurts?", "no answer", key="g"),
]


@pytest.mark.parametrize(
    ("question", "wrong"),
    [
        (asked("In which year did it open?", "1889"), "1931"),
        (asked("How wide is the river?", "90 metres"), {"300 metres", "1,280 metres"}),
        (asked("Which town lies there?", "Norwich"), "Paris"),
        (asked("Which architect drew it?", "Stephen Sauvestre"), "Gustave Eiffel"),
        (asked("What is it full of?", "sea water"), "wrought iron"),
    ],
)
def test_an_answer_of_the_same_kind_is_chosen(question: Question, wrong: str | set[str]) -> None:
    found = wrong_answer(question, OTHERS, seed=0)
    assert found in ({wrong} if isinstance(wrong, str) else wrong)


def test_what_stands_in_a_gold_passage_is_not_wrong() -> None:
    question = asked("Which town lies there?", "Norwich")
    gold = [Passage("p", "Norwich", "Norwich is not Paris.")]
    assert wrong_answer(question, OTHERS, gold, seed=0) != "Paris"
    assert wrong_answer(question, OTHERS[3:4], gold, seed=0) is None


def test_the_order_of_the_others_does_not_count_and_the_seed_does() -> None:
    others = [asked("Who is it?", f"Person {n}{n}", key=str(n)) for n in range(20)]
    question = asked("Who was it?", "Ada Lovelace")
    found = wrong_answer(question, others, seed=0)
    assert wrong_answer(question, others[::-1], seed=0) == found
    assert len({wrong_answer(question, others, seed=seed) for seed in range(8)}) > 1


def test_overlap() -> None:
    assert overlaps("the vole", ["field vole", "mouse"])
    assert overlaps("20 years", ["twenty years", "20 years"])
    assert not overlaps("30 years", ["20 years"])
    assert not overlaps("in May", ["in June"])
    assert overlaps("", ["owl"])


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("1889", "date"), ("in 1889", "date"), ("May or June", "date"), ("nineteen", "number"),
        ("1,280 metres", "number"), ("twenty years", "number"), ("Paris", "name"),
        ("the Sargasso Sea", "name"), ("wrought iron", "phrase"), ("the male", "phrase"),
    ],
)  # fmt: skip
def test_kinds(answer: str, kind: str) -> None:
    assert answer_kind(answer) == kind


def test_wrong_answers_to_the_field_guide_are_wrong() -> None:
    corpus = load_corpus("corpora/fieldguide")
    every = [question for split in corpus.questions.values() for question in split]
    passages = {passage.id: passage for passage in corpus.passages}
    for question in corpus.questions["test"][:40]:
        gold = [passages[key] for key in question.gold]
        others = [other for other in every if other.id != question.id]
        found = wrong_answer(question, others, gold, seed=0)
        assert found is not None
        assert not exact_match(found, question.answers)
        assert not any(contains_answer(passage.contents, (found,)) for passage in gold)
