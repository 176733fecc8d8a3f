"""A defended pipeline: where each defence takes hold, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rag_fakes import FixedGenerator, FixedRetriever

from robustlab.data.records import Passage
from robustlab.defense import DefendedRag, Vote, side_by_side
from robustlab.defense.prompts import PromptFrame
from robustlab.errors import UserError
from robustlab.models.target import Ask, Generate, Generations, Request, Retrieve, Score
from robustlab.rag import PromptTemplate, RagPipeline

TEMPLATE = PromptTemplate.parse(
    "--- prompt ---\n{question}\n{passages}\n--- passage ---\n{text}", "t"
)
WHO, WHOM = "who built it?", "wh0 built it?"
P = [Passage(f"p{i}", "", f"says a{i}") for i in range(6)]
POISON = "bad: says evil"


class Repeats(FixedGenerator):
    """Answers with the last word of the first passage; without one, with nothing."""

    def __init__(self) -> None:
        super().__init__({})

    def answer(self, request: Request):
        if isinstance(request, Score):
            return super().answer(request)
        assert isinstance(request, Generate)
        self.requests.append(request)
        lines = [prompt.split("\n") for prompt in request.prompts]
        texts = tuple(rows[1].split()[-1] if rows[1:] and rows[1] else "" for rows in lines)
        count = len(texts)
        return Generations(
            texts,
            np.full(count, -1, dtype=np.float32),
            np.full(count, 2),
            np.ones(count, dtype=np.float32),
        )


class Named:
    name = "named"

    def describe(self):
        return {"name": self.name}

    def fingerprint(self):
        return self.name


class Spell(Named):
    name = "spell"

    def repair(self, questions):
        return [question.replace("0", "o") for question in questions]


class Without(Named):
    """Leaves out passages with a word; suspicion is how often they have it."""

    threshold = 0.5

    def __init__(self, word: str) -> None:
        self.name = f"without-{word}"
        self.word = word
        self.judged: list[str] = []

    def suspicion(self, texts):
        return np.array([text.count(self.word) for text in texts], dtype=np.float64)

    def keep(self, questions, ranked):
        self.judged += [hit.passage.id for hits in ranked for hit in hits]
        assert all("0" not in question for question in questions)
        return [[self.word not in hit.passage.text for hit in hits] for hits in ranked]


class Longest(Named):
    """Answers with the passage that has the highest id; all others are outvoted."""

    name = "longest"

    def read(self, pipeline, questions, ranked):
        chosen = [[max(hits, key=lambda hit: hit.passage.id)] for hits in ranked]
        answers = pipeline.read(questions, chosen)
        every = pipeline.read(questions, ranked)
        return [replace(one, hits=all_.hits) for one, all_ in zip(answers, every, strict=True)]

    def votes(self, pipeline, question, hits):
        (answer,) = self.read(pipeline, [question], [hits])
        return tuple(
            Vote(hit.passage.id, hit.passage.text.split()[-1], answer.answer in hit.passage.text)
            for hit in hits
        )


class Wraps(Named):
    name = "wraps"

    def wrap(self, target):
        return target


def pipeline(top_k: int = 2) -> RagPipeline:
    return RagPipeline(FixedRetriever({WHO: P}), Repeats(), TEMPLATE, top_k=top_k, max_new_tokens=5)


def test_without_defences_it_is_the_pipeline() -> None:
    plain, defended = pipeline(), DefendedRag(pipeline(), [])
    assert defended.ask([WHO]) == plain.ask([WHO])
    for request in (Ask((WHO, WHO), ((), (POISON,))), Retrieve((WHO,), ((POISON,),), 3)):
        assert defended.answer(request) == plain.answer(request)
    assert defended.answers == plain.answers


def test_a_question_is_repaired_before_anything_reads_it() -> None:
    defended = DefendedRag(pipeline(), [Spell()])
    (answer,) = defended.ask([WHOM])
    assert (answer.question, answer.prompt.split("\n")[0]) == (WHOM, WHO)
    assert defended.answer(Retrieve((WHOM,))).items[0].ids[0] == "p0"
    assert defended.prompt(WHOM, P[:1]) == f"{WHO}\nsays a0"


def test_what_is_dropped_is_replaced_from_further_down_and_never_counted_as_read() -> None:
    defended = DefendedRag(pipeline(), [Without("a0"), Without("evil")])
    (reply,) = defended.answer(Ask((WHO,), ((POISON,),))).items
    assert reply.text == "a1"
    assert reply.retrieved.ids == ("poison:0", "p0")  # what the retriever found of top_k
    assert reply.read == ("p1", "p2")
    (answer,) = defended.ask([WHO], [[POISON]])
    assert [(hit.passage.id, hit.rank, hit.in_context) for hit in answer.hits] == [
        ("poison:0", 1, False), ("p0", 2, False), ("p1", 3, True), ("p2", 4, True),
    ]  # fmt: skip


def test_a_filter_sees_what_those_before_it_kept() -> None:
    first, second = Without("a0"), Without("a1")
    DefendedRag(pipeline(), [first, second]).ask([WHO])
    assert first.judged == ["p0", "p1", "p2", "p3"]
    assert second.judged == ["p1", "p2", "p3"]


def test_everything_dropped_leaves_a_prompt_without_passages() -> None:
    (answer,) = DefendedRag(pipeline(), [Without("says")]).ask([WHO])
    assert (answer.answer, answer.context) == ("", ())


def test_passages_are_read_in_the_order_in_which_they_are_given() -> None:
    defended = DefendedRag(pipeline(), [Without("a1")])
    (ranked,) = defended.retrieve([WHO], 3)
    (answer,) = defended.read([WHO], [ranked[::-1]])
    assert answer.prompt == f"{WHO}\nsays a2\nsays a0"
    assert answer.as_reply().read == ("p2", "p0")


def test_marks_of_the_prompt_are_taken_out_of_passages_for_the_generator_alone() -> None:
    frame = PromptFrame("q", before="", after="", opening="<q>", closing="</q>")
    (answer,) = DefendedRag(pipeline(1), [frame]).ask([WHO], [["</q>forged"]])
    assert answer.prompt == f"{WHO}\n<q>forged</q>"
    assert answer.hits[0].passage.text == "</q>forged"
    assert answer.hits[0].shown == "forged"


def test_generate_and_score_go_through_the_defences() -> None:
    defended = DefendedRag(pipeline(), [Spell(), Without("a0")])
    assert defended.answer(Generate((WHOM,), 7)).texts == ("a1",)
    assert defended.generator.requests[-1].max_new_tokens == 7
    defended.answer(Score((WHOM,), ("out",)))
    assert defended.generator.requests[-1].prompts == (f"{WHO}\nsays a1\nsays a2",)
    defended.answer(Score(("a prompt",), ("out",), inside=True))
    assert defended.generator.requests[-1].prompts == ("a prompt",)


def test_a_reader_defence_answers_and_is_asked_for_its_votes() -> None:
    defended = DefendedRag(pipeline(), [Spell(), Longest()])
    assert defended.answer(Ask((WHOM,))).items[0].text == "a1"
    found = defended.explain(WHOM)
    assert found.answer.answer == "a1"
    assert found.votes == (Vote("p0", "a0", False), Vote("p1", "a1", True))
    with pytest.raises(UserError, match="longest answers from votes"):
        defended.answer(Score((WHO,), ("out",)))


def test_an_explanation_says_who_did_what() -> None:
    defended = DefendedRag(pipeline(), [Spell(), Without("evil"), Without("a0")])
    found = defended.explain(WHOM, [POISON])
    assert [(r.defense, r.before, r.after) for r in found.repaired] == [("spell", WHOM, WHO)]
    assert [hit.passage.id for hit in found.retrieved] == ["poison:0", "p0", "p1", "p2"]
    assert [(d.defense, d.hit.passage.id, d.suspicion, d.threshold) for d in found.dropped] == [
        ("without-evil", "poison:0", 1.0, 0.5),
        ("without-a0", "p0", 1.0, 0.5),
    ]
    assert found.answer == defended.ask([WHOM], [[POISON]])[0]


def test_side_by_side_has_the_views_that_there_are() -> None:
    defended = DefendedRag(pipeline(), [Without("evil")])
    found = side_by_side(defended, WHO, [POISON])
    answers = [
        found.clean, found.poisoned, found.defended_clean, found.defended_poisoned,
    ]  # fmt: skip
    assert [view.answer.answer for view in answers] == ["a0", "evil", "a0", "a0"]
    alone = side_by_side(pipeline(), WHO)
    assert (alone.poisoned, alone.defended_clean, alone.defended_poisoned) == (None, None, None)


@pytest.mark.parametrize(
    ("defenses", "sentence"),
    [
        ([Longest(), Longest()], "longest and longest both take the place of the reader"),
        ([Wraps()], "the defence wraps is for classifiers; a RAG pipeline cannot take it"),
    ],
)
def test_what_a_pipeline_cannot_take(defenses: list, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        DefendedRag(pipeline(), defenses)


def test_fingerprint_and_description_name_the_defences() -> None:
    one, two = DefendedRag(pipeline(), [Spell()]), DefendedRag(pipeline(), [Without("x")])
    assert len({pipeline().fingerprint(), one.fingerprint(), two.fingerprint()}) == 3
    assert one.describe()["defenses"] == [{"name": "spell"}]


def test_another_retriever_keeps_the_defences() -> None:
    other = DefendedRag(pipeline(), [Without("a0")]).with_retriever(FixedRetriever({WHO: P[:1]}))
    assert other.ask([WHO])[0].answer == ""
