"""Which passages fit: whole ones first, the best one cut if it must be."""

from __future__ import annotations

import pytest
from rag_fakes import FixedGenerator

from robustlab.data.records import Passage
from robustlab.errors import UserError
from robustlab.rag import PromptTemplate, build_contexts

# A prompt is question + passages: as many tokens as there are words.
TEMPLATE = PromptTemplate.parse(
    "--- prompt ---\n{question}\n{passages}\n--- passage ---\n{passage}\n", "plain"
)


def words(name: str, count: int) -> Passage:
    return Passage(name, "", " ".join(f"{name}{i}" for i in range(count)))


A, B, C = words("a", 10), words("b", 20), words("c", 3)


def build(limit: int, *ranked: list[Passage], question: str = "who are you"):
    generator = FixedGenerator({}, limit=limit + 5)
    questions = [question] * len(ranked)
    return generator, build_contexts(
        TEMPLATE, generator, questions, ranked, output_tokens=[5] * len(ranked)
    )


def test_everything_that_fits_is_used() -> None:
    generator, (context,) = build(36, [A, B, C])
    assert context.passages == (A, B, C)
    assert context.dropped == ()
    assert context.prompt == f"who are you\n{A.text}\n{B.text}\n{C.text}"
    assert generator.count_calls == 1


def test_passages_are_dropped_whole_from_the_end() -> None:
    _, (context,) = build(35, [A, B, C])
    assert context.passages == (A, B)
    assert context.dropped == (C,)


def test_a_passage_never_displaces_a_better_one() -> None:
    # C would fit behind A, but B was ranked higher.
    _, (context,) = build(20, [A, B, C])
    assert context.passages == (A,)
    assert context.dropped == (B, C)


def test_a_best_passage_that_does_not_fit_is_cut() -> None:
    _, (context,) = build(10, [B, A])
    (shown,) = context.passages
    assert shown.id == "b"
    assert shown.text == " ".join(B.text.split()[:7])
    assert context.dropped == (A,)
    assert context.prompt == f"who are you\n{shown.text}"


def test_no_room_for_any_passage() -> None:
    _, (context,) = build(3, [A, B])
    assert context.passages == ()
    assert context.dropped == (A, B)
    assert context.prompt == "who are you\n"


def test_a_question_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"takes 3 tokens .* room for 2 beside the answer"):
        build(2, [A])


def test_a_long_question_is_quoted_short() -> None:
    with pytest.raises(UserError) as error:
        build(2, [A], question="very " * 1000)
    assert len(str(error.value)) < 300


def test_each_question_by_itself_and_all_in_few_calls() -> None:
    ranked = [[A, B, C], [B, A], [], [C], [A], [C, B, A]]
    generator, together = build(16, *ranked)
    alone = [build(16, passages)[1][0] for passages in ranked]
    assert together == alone
    assert [len(context.passages) for context in together] == [1, 1, 0, 1, 1, 1]
    assert generator.count_calls < 14


def test_more_room_for_longer_outputs() -> None:
    generator = FixedGenerator({}, limit=40)
    short, long = build_contexts(
        TEMPLATE, generator, ["q", "q"], [[A, B], [A, B]], output_tokens=[5, 20]
    )
    assert short.passages == (A, B)
    assert long.passages == (A,)


def test_text_without_spaces_is_cut_too() -> None:
    generator = FixedGenerator({}, limit=25)
    generator.count_tokens_many = lambda texts: [len(text) for text in texts]  # type: ignore[method-assign]
    passage = Passage("x", "", "x" * 100)
    (context,) = build_contexts(TEMPLATE, generator, ["q"], [[passage]], output_tokens=[5])
    assert context.prompt == "q\n" + "x" * 18


def test_no_questions() -> None:
    assert build_contexts(TEMPLATE, FixedGenerator({}), [], [], output_tokens=[]) == []
