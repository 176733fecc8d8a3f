"""Methods of who sees the inside of retriever or reader, and jamming."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from planted import PlantedTarget
from planted_rag import CORPUS, TEMPLATE, NoWord, PlantedRag, poison_start, shipped

from robustlab.attack.engine import Engine, Finished, Job
from robustlab.attack.goals import Frame
from robustlab.data.records import Corpus
from robustlab.defense.pipeline import DefendedRag
from robustlab.errors import UserError
from robustlab.models.target import Ask, Gradient
from robustlab.poisoning.adaptive import Watch, choose, defended
from robustlab.poisoning.gcg_passage import GcgPassage, PassageGoal
from robustlab.poisoning.jamming import Jamming
from robustlab.poisoning.method import Poison, PoisonMethod, PoisonStart
from robustlab.poisoning.methods import build_poison_method
from robustlab.poisoning.whitebox import WhiteBoxPoisonedRag
from robustlab.rag import RagPipeline
from robustlab.retrieval.lexical import LexicalIndex


def attack(
    method: Any, rag: PlantedRag, start: PoisonStart, *, queries: int | None = None
) -> Finished[Poison]:
    engine = Engine(rag, seed=0, query_budget=queries)
    (done,) = engine.run([Job("q0", lambda rng: method.attack(start, rng))])
    assert done.error is None, done.error
    return done


def poison_of(done: Finished[Poison]) -> Poison:
    assert done.value is not None
    return done.value


def whitebox() -> WhiteBoxPoisonedRag:
    method = build_poison_method(shipped("poisonedrag-whitebox"))
    assert isinstance(method, WhiteBoxPoisonedRag)
    return method


def gcg(**changes: str) -> GcgPassage:
    method = build_poison_method(shipped("gcg-passage", **changes))
    assert isinstance(method, GcgPassage)
    return method


def test_whitebox_passages_keep_their_texts_and_come_nearer() -> None:
    rag = PlantedRag()
    start = poison_start(rag)
    poison = poison_of(attack(whitebox(), rag, start))
    assert [text.split(maxsplit=4)[4] for text in poison.passages] == list(start.texts)
    assert poison.notes is not None
    pairs = list(zip(poison.notes["similarity"], poison.notes["similarity_before"], strict=True))
    assert all(after >= before for after, before in pairs)
    assert any(after > before for after, before in pairs)


def test_whitebox_claims_what_the_pipeline_says() -> None:
    rag = PlantedRag(bias=9.0)  # says yes to everything
    assert poison_of(attack(whitebox(), rag, poison_start(rag))).claims_success
    rag = PlantedRag(bias=-9.0)
    assert not poison_of(attack(whitebox(), rag, poison_start(rag))).claims_success


@pytest.mark.parametrize("queries", [1, 2, 3, 7, 20])
def test_whitebox_stays_within_its_budget(queries: int) -> None:
    rag = PlantedRag()
    done = attack(whitebox(), rag, poison_start(rag, queries=queries), queries=queries)
    assert not done.exhausted
    assert done.queries <= queries
    assert len(poison_of(done).passages) == 2


def test_whitebox_that_adapts_also_asks_about_fewer_passages() -> None:
    rag = PlantedRag()
    attack(whitebox(), rag, poison_start(rag, adaptive=True))
    (asked,) = [request for request in rag.asked if isinstance(request, Ask)]
    assert {len(poison) for poison in asked.poisons} == {1, 2}
    assert poison_start(rag).texts in asked.poisons


def test_whitebox_needs_a_white_box() -> None:
    rag = PlantedRag()
    search = whitebox().attack(poison_start(rag, closed=True), np.random.default_rng(0))
    with pytest.raises(UserError, match="--retriever"):
        next(search)


def test_of_several_poisons_the_first_that_works_is_taken() -> None:
    rag = PlantedRag(top_k=3)
    start = poison_start(rag, "good food", passages=1)
    variants = [("the film",), ("good food weak weak weak",), ("good food weak weak weak weak",)]
    engine = Engine(rag, seed=0)
    job = Job("q", lambda rng: choose(start, "wrong-answer", variants, queries=None))
    (done,) = engine.run([job])
    poison = poison_of(done)
    assert (poison.passages, poison.claims_success) == (variants[1], True)
    assert (poison.notes, done.queries) == ({"variant": 1}, 3)


def test_without_queries_the_first_poison_is_taken_unasked() -> None:
    rag = PlantedRag()
    start = poison_start(rag, passages=1)
    search = choose(start, "wrong-answer", [("a",), ("b",)], queries=0)
    with pytest.raises(StopIteration) as end:
        next(search)
    assert end.value.value == Poison(("a",), notes={"variant": 0})


def test_gcg_writes_until_the_pipeline_gives_the_wrong_answer() -> None:
    rag = PlantedRag(bias=-1.0, top_k=3)
    start = poison_start(rag, passages=1, texts=("the room",))
    done = attack(gcg(), rag, start)
    poison = poison_of(done)
    assert poison.claims_success
    (passage,) = poison.passages
    assert passage.startswith("was the food good the room ")
    assert "weak" in passage.split()
    (last,) = rag.answer(Ask((start.question.text,), (poison.passages,))).items
    assert last.text == "yes"


def test_gcg_differentiates_the_prompt_that_the_passage_was_retrieved_into() -> None:
    rag = PlantedRag(bias=-1.0)
    start = poison_start(rag, passages=2, texts=("the room", "the view"))
    attack(gcg(), rag, start)
    gradient = next(request for request in rag.asked if isinstance(request, Gradient))
    (prompt,), (wanted,) = gradient.texts, gradient.goals
    first = next(request for request in rag.asked if isinstance(request, Ask))
    ranked, passages = rag._ranked(start.question.text, first.poisons[0])
    assert wanted == "yes"
    assert isinstance(prompt, str)
    lines = prompt.split("\n")
    assert lines[-1] == start.question.text
    assert len(lines) == 1 + len(ranked.ids)
    other = next(p.text for p in passages if p.id != "poison:0")
    assert lines[1 - ranked.ids.index("poison:0")] == other


def test_gcg_says_so_where_the_passage_is_not_read() -> None:
    rag = PlantedRag(top_k=1)
    start = poison_start(rag, "food good", passages=1, texts=("weak steady long film",))
    rag.embed = lambda text: np.eye(6, dtype=np.float32)[int("weak" in text)]
    poison = poison_of(attack(gcg(), rag, start))
    assert not poison.claims_success
    assert poison.notes == {"reason": "the passage was not read"}


@pytest.mark.parametrize("queries", [1, 2, 5, 40])
def test_gcg_stays_within_its_budget(queries: int) -> None:
    rag = PlantedRag(bias=-9.0)
    start = poison_start(rag, passages=1, texts=("the room",), queries=queries)
    done = attack(gcg(), rag, start, queries=queries)
    assert not done.exhausted
    assert done.queries <= queries


def test_gcg_ranks_what_a_filter_would_drop_behind_all_else() -> None:
    rag = PlantedRag(bias=-1.0)
    start = poison_start(rag, passages=1)
    goal = PassageGoal(start, "wrong-answer", Frame(), "yes", (), Watch((NoWord("weak"),)))
    engine = Engine(rag, seed=0)
    (done,) = engine.run([Job("q", lambda rng: goal.look(["weak weak", "strong", "fair"]))])
    assert done.value is not None
    assert done.value.scores.argmin() == 0


def test_gcg_ranks_what_is_not_read_behind_all_else() -> None:
    rag = PlantedRag(bias=-1.0, top_k=1)
    start = poison_start(rag, "food good", passages=1)
    goal = PassageGoal(start, "wrong-answer", Frame(), "yes", (), Watch())
    engine = Engine(rag, seed=0)
    texts = ["weak weak weak", "weak weak", "weak", "weak and weak", "food good"]
    (done,) = engine.run([Job("q", lambda rng: goal.look(texts))])
    assert done.value is not None
    # The first four are asked about together, and one more where none of them is read.
    assert done.value.best == 4
    assert [len(r.questions) for r in rag.asked if isinstance(r, Ask)] == [4, 1]


def test_gcg_can_want_a_refusal() -> None:
    method = build_poison_method(shipped("jamming-whitebox"))
    assert isinstance(method, GcgPassage)
    assert (method.goal, method.refusal) == ("no-answer", "no answer")
    with pytest.raises(UserError, match=r"threat\.goal"):
        gcg(**{'"wrong-answer"': '"retrieve-poison"'})


def jamming(**changes: Any) -> Jamming:
    words = ("fair", "weak", "room")
    made = Jamming("jamming", ("the room", "the {question} view"), words, 20, 6)
    return replace(made, **changes)


def test_jamming_finds_words_that_make_the_reader_refuse() -> None:
    rag = PlantedRag(bias=-0.4, says=("food", "no answer"))
    start = poison_start(rag, passages=1, wrong=None)
    poison = poison_of(attack(jamming(), rag, start))
    assert poison.claims_success
    (passage,) = poison.passages
    assert passage.startswith("was the food good ")
    assert "weak" in passage


def test_jamming_needs_no_step_where_a_blocker_does() -> None:
    rag = PlantedRag(bias=9.0, says=("food", "no answer"))
    start = poison_start(rag, passages=2, wrong=None)
    done = attack(jamming(), rag, start)
    poison = poison_of(done)
    assert done.queries == 2
    assert poison.claims_success
    assert len(poison.passages) == 2
    assert any("the was the food good view" in text for text in poison.passages)


@pytest.mark.parametrize("queries", [0, 1, 3, 9])
def test_jamming_stays_within_its_budget(queries: int) -> None:
    rag = PlantedRag(bias=-9.0, says=("food", "no answer"))
    start = poison_start(rag, passages=2, wrong=None, queries=queries)
    done = attack(jamming(), rag, start, queries=max(1, queries))
    assert not done.exhausted
    assert done.queries <= queries
    assert len(poison_of(done).passages) == 2


def test_jamming_that_adapts_asks_only_about_what_gets_past() -> None:
    rag = PlantedRag(bias=-0.4, says=("food", "no answer"))
    start = poison_start(rag, passages=1, wrong=None)
    pipeline = RagPipeline(
        LexicalIndex.build(Corpus("tiny", tuple(CORPUS.values()))),
        PlantedTarget(kind="causal"),
        TEMPLATE,
    )
    target = DefendedRag(pipeline, [NoWord("weak")])
    knowledge = replace(start.knowledge, target=target, adaptive=True)
    assert defended(knowledge) is target
    assert defended(replace(knowledge, adaptive=False)) is None
    words = ("weak", "fair", "mild", "plain", "steady", "room")
    attack(jamming(words=words), rag, replace(start, knowledge=knowledge))
    asked: Sequence[Any] = [r for r in rag.asked if isinstance(r, Ask)]
    assert not any("weak" in text for r in asked for poison in r.poisons for text in poison)


@pytest.mark.parametrize(
    "name", ["poisonedrag-whitebox", "gcg-passage", "jamming", "jamming-whitebox"]
)
def test_the_recipes_are_methods_for_one_question(name: str) -> None:
    assert isinstance(build_poison_method(shipped(name)), PoisonMethod)


def test_wrong_recipes_are_refused() -> None:
    with pytest.raises(UserError, match=r"threat\.goal"):
        build_poison_method(shipped("jamming", **{'"no-answer"': '"wrong-answer"'}))
    with pytest.raises(UserError, match=r"threat\.goal"):
        build_poison_method(shipped("poisonedrag-whitebox", **{'"wrong-answer"': '"no-answer"'}))
