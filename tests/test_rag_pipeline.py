"""The pipeline: with parts that are written down, and with MiniLM and tiny random generators."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rag_corpus import write_corpus
from rag_fakes import FixedGenerator, FixedRetriever
from tiny import save_tiny

from robustlab.data import Passage, load_corpus
from robustlab.errors import UserError
from robustlab.models.target import (
    Ask,
    Direction,
    Embed,
    Generate,
    Gradient,
    Reply,
    Retrieval,
    Retrieve,
    Score,
    Target,
)
from robustlab.rag import RagAnswer, RagPipeline, load_prompt, load_rag

OWL = Passage("p1", "Owl", "It hoots.")
HEN = Passage("p2", "", "It clucks loudly.")
READER = load_prompt("reader")


def fixed(limit: int = 100, **options) -> RagPipeline:
    generator = FixedGenerator({"who hoots?": "the owl", "who clucks?": "hen"}, limit=limit)
    retriever = FixedRetriever({"who hoots?": [OWL, HEN], "who clucks?": [HEN, OWL]})
    return RagPipeline(retriever, generator, READER, **{"max_new_tokens": 5, **options})


def test_an_answer_says_what_it_was_made_from() -> None:
    (answer,) = fixed().ask(["who hoots?"])
    assert answer.question == "who hoots?"
    assert answer.answer == "the owl"
    assert answer.prompt == "who hoots?\n[SEP] Owl. It hoots.\n[SEP] It clucks loudly."
    assert (answer.log_prob, answer.tokens) == (-1.5, 3)
    assert answer.confidence == pytest.approx(math.exp(-0.5))
    assert answer.context == ("Owl. It hoots.", "It clucks loudly.")
    assert [(hit.passage.id, hit.score, hit.rank) for hit in answer.hits] == [
        ("p1", 0.9, 1),
        ("p2", 0.8, 2),
    ]


def test_only_top_k_passages_are_retrieved() -> None:
    (answer,) = fixed(top_k=1).ask(["who clucks?"])
    assert [hit.passage for hit in answer.hits] == [HEN]


def test_passages_without_room_are_shown_as_such() -> None:
    first, second = fixed(limit=11).ask(["who hoots?", "who clucks?"])
    assert [hit.shown for hit in first.hits] == ["It hoots.", None]
    assert [hit.in_context for hit in first.hits] == [True, False]
    assert first.context == ("Owl. It hoots.",)
    assert second.context == ("It clucks loudly.",)


def test_a_cut_passage_is_shown_as_it_was_read() -> None:
    (answer,) = fixed(limit=10, top_k=1).ask(["who clucks?"])
    assert answer.hits[0].shown == "It clucks"
    assert answer.hits[0].passage == HEN
    assert answer.prompt == "who clucks?\n[SEP] It clucks"


def test_a_pipeline_is_a_target() -> None:
    pipeline = fixed()
    assert isinstance(pipeline, Target)
    assert pipeline.kind == "rag"
    assert pipeline.answers == {Ask, Retrieve, Generate, Score}
    generated = pipeline.answer(Generate(("who clucks?", "who hoots?"), 4))
    assert generated.texts == ("hen", "the owl")
    assert pipeline.generator.requests[-1].max_new_tokens == 4
    scores = pipeline.answer(Score(("who hoots?",), ("red owl",)))
    assert scores.log_probs.tolist() == [-6.0]
    assert pipeline.generator.requests[-1].prompts == (pipeline.ask(["who hoots?"])[0].prompt,)
    with pytest.raises(TypeError, match=r"rag .* does not answer Embed"):
        pipeline.answer(Embed(("text",)))
    unscored = RagPipeline(pipeline.retriever, FixedGenerator({}, scores=False), READER)
    assert unscored.answers == {Ask, Retrieve, Generate}
    with pytest.raises(TypeError, match="does not answer Score"):
        unscored.answer(Score(("who hoots?",), ("owl",)))


def test_a_long_output_gets_its_room_when_it_is_scored() -> None:
    pipeline = fixed(limit=15)  # 10 words beside five of an answer: both passages fit
    pipeline.answer(Score(("who hoots?", "who hoots?"), ("owl", "a bird of the night")))
    short, long = pipeline.generator.requests[-1].prompts
    assert "clucks" in short
    assert "clucks" not in long


def test_a_score_inside_takes_whole_prompts() -> None:
    pipeline = fixed()
    pipeline.answer(Score(("who hoots?\n[SEP] Cats.",), ("owl",), inside=True))
    assert pipeline.generator.requests[-1].prompts == ("who hoots?\n[SEP] Cats.",)


def test_poison_stands_in_the_corpus_of_its_question_alone() -> None:
    pipeline = fixed(top_k=2)
    questions, poisons = ("who hoots?", "who clucks?"), (("Cats hoot.",), ())
    poisoned, clean = pipeline.answer(Ask(questions, poisons)).items
    assert poisoned == Reply(
        "the owl", -1.5, 3, 1.0, Retrieval(("poison:0", "p1"), (1.0, 0.9)), ("poison:0", "p1")
    )
    assert "[SEP] Cats hoot.\n[SEP] Owl." in pipeline.generator.requests[-1].prompts[0]
    assert clean.retrieved.ids == ("p2", "p1")
    found = pipeline.answer(Retrieve(questions, poisons, 1)).items
    assert [item.ids for item in found] == [("poison:0",), ("p2",)]
    assert pipeline.answer(Ask(questions)).items[0].retrieved.ids == ("p1", "p2")


def test_another_retriever_shares_the_generator() -> None:
    pipeline = fixed(top_k=1)
    poisoned = Passage("x", "", "Cats hoot.")
    other = pipeline.with_retriever(FixedRetriever({"who hoots?": [poisoned, OWL]}))
    assert other.generator is pipeline.generator
    assert (other.top_k, other.max_new_tokens, other.template) == (1, 5, READER)
    assert other.ask(["who hoots?"])[0].context == ("Cats hoot.",)
    assert pipeline.ask(["who hoots?"])[0].context == ("Owl. It hoots.",)
    assert other.fingerprint() != pipeline.fingerprint()


def test_nothing_asked_nothing_answered() -> None:
    assert fixed().ask([]) == []


@pytest.mark.parametrize(("option", "value"), [("top_k", 0), ("max_new_tokens", 0)])
def test_options_out_of_range(option: str, value: int) -> None:
    with pytest.raises(UserError, match="at least"):
        fixed(**{option: value})


def test_the_manifest_holds_the_prompt() -> None:
    described = fixed(top_k=3).describe()
    assert described["top_k"] == 3
    assert described["prompt"]["text"] == READER.source
    assert described["generator"]["spec"] == "fixed"
    assert described["retriever"] == {"kind": "listed"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return load_corpus(str(write_corpus(tmp_path_factory.mktemp("corpus") / "towns")))


@pytest.fixture(scope="module")
def generators(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generators")
    return {name: str(save_tiny(name, folder / name)) for name in ("t5", "llama")}


CPU = {"device": "cpu", "dtype": "fp32"}


def _places(answer: RagAnswer) -> list[tuple[str, str | None]]:
    return [(hit.passage.id, hit.shown) for hit in answer.hits]


@pytest.mark.parametrize(("name", "kind"), [("t5", "seq2seq"), ("llama", "causal")])
def test_real_parts(corpus, generators, tmp_path, name: str, kind: str) -> None:
    template = tmp_path / "short.txt"
    template.write_text(
        "--- prompt ---\n{passages}\nquestion {question} answer\n--- passage ---\n{text}\n"
    )
    pipeline = load_rag(
        corpus, "builtin:retriever", generators[name], prompt=str(template), max_new_tokens=6, **CPU
    )
    assert pipeline.generator.kind == kind
    questions = [question.text for question in corpus.questions["test"]]
    together = pipeline.ask(questions)
    alone = [pipeline.ask([question])[0] for question in questions]
    assert [a.answer for a in together] == [a.answer for a in alone]
    assert [_places(a) for a in together] == [_places(a) for a in alone]
    assert [a.log_prob for a in together] == pytest.approx([a.log_prob for a in alone], abs=1e-4)
    limit = pipeline.generator.input_limit(6)
    for answer in together:
        assert len(answer.hits) == 5
        assert 0 < answer.confidence < 1
        # 64 tokens in all: some passages stand in the prompt, not all.
        used = [hit.in_context for hit in answer.hits]
        assert used == sorted(used, reverse=True)
        assert 1 <= sum(used) < 5
        assert pipeline.generator.count_tokens_many([answer.prompt])[0] <= limit
    assert together[0].hits[0].passage.id == "bridge"

    scores = pipeline.answer(Score(tuple(questions), tuple(a.answer for a in together)))
    assert np.isfinite(scores.log_probs).all()
    with pytest.raises(UserError, match="question 2 is empty"):
        pipeline.ask([questions[0], " \n"])
    with pytest.raises(UserError, match="the question is empty"):
        pipeline.ask([""])
    with pytest.raises(UserError, match="shorten the question or the prompt"):
        pipeline.ask(["where is the river " * 40])


def test_poison_is_added_without_a_new_pipeline(corpus, generators) -> None:
    pipeline = load_rag(corpus, "bm25", generators["t5"], top_k=1, max_new_tokens=4, **CPU)
    assert pipeline.template.name == "qa-zero-shot"
    poison = Passage("poison", "", "who built the old bridge? the old bridge built the old king")
    poisoned = pipeline.with_retriever(pipeline.retriever.with_changes(add=[poison]))
    question = "who built the old bridge?"
    assert pipeline.retrieve([question])[0][0].passage.id == "bridge"
    assert poisoned.retrieve([question])[0][0].passage.id == "poison"


def test_a_generator_that_does_not_write_is_refused(corpus, tmp_path) -> None:
    folder = save_tiny("bert", tmp_path / "bert")
    with pytest.raises(UserError, match=r"is a classifier and writes no answers.*--generator"):
        load_rag(corpus, "bm25", str(folder), **CPU)
    with pytest.raises(UserError, match="no prompt 'absent'"):
        load_rag(corpus, "bm25", str(folder), prompt="absent", **CPU)


def test_white_box_requests_go_to_the_part_they_are_about(corpus, generators) -> None:
    pipeline = load_rag(corpus, "builtin:retriever", generators["t5"], **CPU)
    assert {Embed, Gradient} <= pipeline.answers
    text = "A town by the sea."
    wanted = pipeline.answer(Embed(("Which town lies by the sea?",))).vectors[0]
    (slope,) = pipeline.answer(Gradient((text,), (Direction(wanted),))).items
    assert slope.loss == pytest.approx(-pipeline.answer(Embed((text,))).vectors[0] @ wanted)
    (inside,) = pipeline.answer(Gradient((text,), ("sea",))).items
    assert inside.gradient.shape[1] != slope.gradient.shape[1]
    assert load_rag(corpus, "bm25", generators["t5"], **CPU).encoder is None
