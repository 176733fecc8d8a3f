"""What an evaluation computes on answers and rankings written down here, checked by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from rag_fakes import FixedGenerator, FixedRetriever

from robustlab.data.questions import check_answers, check_gold
from robustlab.data.records import Corpus, LabelledExample, Passage, Question
from robustlab.errors import UserError
from robustlab.evaluation.classification import (
    classification_outcomes,
    summarise_classification,
)
from robustlab.evaluation.generation import (
    generation_outcomes,
    summarise_answers,
)
from robustlab.evaluation.rag import rag_outcomes, summarise_rag
from robustlab.evaluation.retrieval import retrieval_outcomes, summarise_retrieval
from robustlab.metrics.intervals import Estimate, rate
from robustlab.models.labels import align_labels
from robustlab.models.target import Embed, Embeddings, Predict, Predictions, Request, Score
from robustlab.rag import RagPipeline, load_prompt
from robustlab.retrieval import DenseIndex, SentenceEncoder
from robustlab.retrieval.encoder import BUILTIN

OWL = Passage("p1", "Owl", "The owl hoots at dusk.")
HEN = Passage("p2", "Hen", "A hen clucks.")
COCK = Passage("p3", "Cock", "The rooster crows.")
PASSAGES = {passage.id: passage for passage in (OWL, HEN, COCK)}

QUESTIONS = (
    Question("q1", "which bird hoots?", ("the owl",), ("p1",)),
    Question("q2", "who crows?", ("red rooster", "rooster"), ("p3", "p2")),
    Question("q3", "who swims?", (), ("p2",)),
    Question("q4", "who clucks?", ("hen",), ("p2",)),
)
PREDICTIONS = {
    "which bird hoots?": "the owl",
    "who crows?": "a rooster bird",
    "who swims?": "no answer",
    "who clucks?": "no answer",
}
READER = load_prompt("reader")


def values(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    return {name: estimate.value for name, estimate in estimates.items()}


def test_answers_given_the_gold_passages() -> None:
    generator = FixedGenerator(PREDICTIONS)
    outcomes = list(generation_outcomes(generator, READER, QUESTIONS, PASSAGES, max_new_tokens=10))
    assert generator.requests[0].prompts == (
        "which bird hoots?\n[SEP] Owl. The owl hoots at dusk.",
        "who crows?\n[SEP] Cock. The rooster crows.\n[SEP] Hen. A hen clucks.",
        "who swims?\n[SEP] Hen. A hen clucks.",
        "who clucks?\n[SEP] Hen. A hen clucks.",
    )
    assert [outcome["exact_match"] for outcome in outcomes] == [True, False, True, False]
    assert [outcome["refused"] for outcome in outcomes] == [False, False, True, True]
    assert outcomes[1]["in_context"] == ["p3", "p2"]

    estimates = summarise_answers(outcomes)
    assert estimates["exact_match"] == rate(2, 4)
    assert estimates["refusal_rate"] == rate(2, 4)
    # "rooster bird" against "rooster": P 1/2, R 1, F1 2/3. The refusals: right, and wrong.
    assert estimates["f1"].value == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)
    # Over q1, q2, q4; "a rooster bird" against "rooster": P 1/3, R 1, F 1/2.
    assert estimates["rouge1"].value == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert estimates["rouge1"].n == 3
    assert estimates["bleu"].n == 3
    assert math.isnan(estimates["bleu"].low)


def test_perplexity_of_the_right_answer() -> None:
    generator = FixedGenerator(PREDICTIONS)
    outcomes = list(generation_outcomes(generator, READER, QUESTIONS, PASSAGES, max_new_tokens=10))
    # "the owl" was generated: 3 tokens of -0.5 are known. The other two are scored at -2 each.
    score = generator.requests[1]
    assert isinstance(score, Score)
    assert score.outputs == ("red rooster", "hen")
    assert score.prompts == (generator.requests[0].prompts[1], generator.requests[0].prompts[3])
    total, tokens = -0.5 * 3 - 2 * 3 - 2 * 2, 3 + 3 + 2
    perplexity = summarise_answers(outcomes)["perplexity"]
    assert perplexity.value == pytest.approx(math.exp(-total / tokens))
    assert perplexity.n == 3


def test_answers_that_cannot_be_scored_are_left_out_of_the_perplexity() -> None:
    short = list(
        generation_outcomes(
            FixedGenerator(PREDICTIONS), READER, QUESTIONS, PASSAGES, max_new_tokens=2
        )
    )
    assert summarise_answers(short)["perplexity"].n == 1  # "hen" alone can be written
    unscored = FixedGenerator(PREDICTIONS, scores=False)
    outcomes = list(generation_outcomes(unscored, READER, QUESTIONS, PASSAGES, max_new_tokens=9))
    assert "perplexity" not in summarise_answers(outcomes)
    assert "exact_match" in summarise_answers(outcomes)


def test_retrieval_measures() -> None:
    fillers = [Passage(f"f{i}", "", f"filler {i}") for i in range(12)]
    found = {
        "a": [OWL, *fillers],  # gold first
        "b": [*fillers[:3], HEN, *fillers[3:8], COCK, *fillers[8:]],  # gold 4th and 10th
        "c": fillers,  # gold never
        "d": [OWL],  # without gold in the corpus
    }
    questions = [
        Question("qa", "a", (), ("p1",)),
        Question("qb", "b", (), ("p2", "p3")),
        Question("qc", "c", (), ("p1", "elsewhere")),
        Question("qd", "d", (), ("elsewhere",)),
    ]
    known = PASSAGES | {passage.id: passage for passage in fillers}
    outcomes = list(retrieval_outcomes(FixedRetriever(found), questions, known, 12))
    assert [outcome["gold_rank"] for outcome in outcomes] == [1, 4, None, None]
    assert outcomes[2]["gold"] == ["p1"]
    assert len(outcomes[0]["retrieved"]) == 12

    estimates = summarise_retrieval(outcomes, 12)
    assert {estimate.n for estimate in estimates.values()} == {3}
    ideal = 1 + 1 / math.log2(3)
    assert values(estimates) == pytest.approx(
        {
            "recall@1": 1 / 3,
            "recall@3": 1 / 3,
            "recall@5": (1 + 1 / 2) / 3,
            "recall@10": 2 / 3,
            "recall@12": 2 / 3,
            "success@1": 1 / 3,
            "success@3": 1 / 3,
            "success@5": 2 / 3,
            "success@10": 2 / 3,
            "success@12": 2 / 3,
            "ndcg@10": (1 + (1 / math.log2(5) + 1 / math.log2(11)) / ideal) / 3,
            "mrr": (1 + 1 / 4) / 3,
        }
    )


class Judge:
    """Embeds by the words: one axis for each of these, and one for all others."""

    spec = "judge"
    kind = "retriever"
    answers = frozenset({Embed})
    label_names = ()

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def answer(self, request: Request) -> Embeddings:
        assert isinstance(request, Embed)
        self.embedded += request.texts
        rows = []
        for text in request.texts:
            row = np.array([float(word in text.lower()) for word in ("hoots", "clucks")] + [1.0])
            rows.append(row / np.linalg.norm(row))
        return Embeddings(np.array(rows, dtype=np.float32))

    def fingerprint(self) -> str:
        return "judge"

    def describe(self) -> Mapping[str, Any]:
        return {"spec": self.spec}


def test_a_pipeline_end_to_end() -> None:
    questions = (
        Question("q1", "which bird hoots?", ("the owl",), ("p1",)),
        Question("q2", "who clucks?", ("hen",), ("p2",)),
        Question("q3", "who crows?", ("rooster",), ("p3",)),
    )
    # Grounded and right; half grounded and nowhere as a whole; refused.
    generator = FixedGenerator(
        {
            "which bird hoots?": "the owl",
            "who clucks?": "hen swims",
            "who crows?": "no answer",
        }
    )
    retriever = FixedRetriever(
        {
            "which bird hoots?": [OWL, HEN, COCK],
            "who clucks?": [COCK, HEN, OWL],
            "who crows?": [OWL, HEN, COCK],
        }
    )
    pipeline = RagPipeline(retriever, generator, READER, top_k=2, max_new_tokens=10)
    judge = Judge()
    outcomes = list(rag_outcomes(pipeline, judge, questions, PASSAGES))
    assert len(judge.embedded) == len(set(judge.embedded))
    assert outcomes == json.loads(json.dumps(outcomes))

    first, _, third = outcomes
    assert first["retrieved"] == ["p1", "p2", "p3"]  # to the depth of ten, and read to top_k
    assert first["in_context"] == ["p1", "p2"]
    assert first["confidence"] == pytest.approx(math.exp(-0.5))
    assert third["gold_rank"] == 3
    assert third["in_context"] == ["p1", "p2"]
    assert "groundedness" not in third
    assert "answer_question_relevance" not in third

    estimates = summarise_rag(outcomes, 2)
    assert estimates["exact_match"] == rate(1, 3)
    assert estimates["refusal_rate"] == rate(1, 3)
    assert estimates["hallucination_rate"] == rate(1, 2)
    assert estimates["groundedness"].value == pytest.approx((1 + 1 / 2) / 2)
    assert estimates["recall@2"].value == pytest.approx(2 / 3)
    assert estimates["mrr"].value == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    # Questions point to (hoots + 1), (clucks + 1) and 1; the passages likewise; the cosine of
    # two such directions is 1, 1/2 or 1/√2.
    half, root = 1 / 2, 1 / math.sqrt(2)
    assert estimates["question_passage_relevance"].value == pytest.approx(
        ((1 + half) / 2 + (root + 1) / 2 + (root + root) / 2) / 3, abs=1e-6
    )
    assert estimates["answer_question_relevance"].value == pytest.approx(root, abs=1e-6)
    assert estimates["answer_question_relevance"].n == 2
    assert {"f1", "bleu", "rougeL", "perplexity", "ndcg@10"} <= estimates.keys()


def test_relevance_by_the_scores_of_the_index_is_that_by_embedding_again() -> None:
    encoder = SentenceEncoder.load(BUILTIN, device="cpu", dtype="fp32")
    index = DenseIndex.build(Corpus("birds", tuple(PASSAGES.values())), encoder)
    generator = FixedGenerator(PREDICTIONS)
    found = []
    for judge in (encoder, SentenceEncoder.load(BUILTIN, device="cpu", dtype="fp32")):
        pipeline = RagPipeline(index, generator, READER, top_k=2, max_new_tokens=10)
        outcomes = rag_outcomes(pipeline, judge, QUESTIONS, PASSAGES)
        found.append([outcome["question_passage_relevance"] for outcome in outcomes])
    known, embedded = found
    assert known == pytest.approx(embedded, abs=1e-5)
    assert len(set(known)) == len(QUESTIONS)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(UserError, match=r"cranfield states no answers .* builtin:retriever"):
        check_answers([Question("q", "why?", (), ("p1",))], "cranfield")
    check_answers(QUESTIONS, "birds")
    with pytest.raises(UserError, match="no question of birds has a gold passage"):
        check_gold([Question("q", "why?", ("so",), ("elsewhere",))], PASSAGES, "birds")
    check_gold(QUESTIONS, PASSAGES, "birds")


class FixedClassifier:
    """Probabilities by text."""

    spec = "fixed"
    kind = "classifier"
    answers = frozenset({Predict})

    def __init__(self, names: tuple[str, ...], rows: Mapping[Any, list[float]]) -> None:
        self.label_names = names
        self._rows = rows

    def answer(self, request: Request) -> Predictions:
        assert isinstance(request, Predict)
        return Predictions(np.array([self._rows[text] for text in request.texts], np.float32))

    def fingerprint(self) -> str:
        return "fixed"

    def describe(self) -> Mapping[str, Any]:
        return {}


def test_accuracy_over_all_and_by_label() -> None:
    # The target numbers its classes the other way round.
    target = FixedClassifier(
        ("Positive", "Negative"),
        {"good": [0.9, 0.1], "bad": [0.2, 0.8], "fine": [0.4, 0.6], ("so", "so"): [0.3, 0.7]},
    )
    examples = [
        LabelledExample("1", "good", 1),
        LabelledExample("2", "bad", 0),
        LabelledExample("3", "fine", 1),
        LabelledExample("4", "so", 0, "so"),
    ]
    outcomes = list(classification_outcomes(target, examples, ("negative", "positive")))
    assert [outcome["correct"] for outcome in outcomes] == [True, True, False, True]
    assert outcomes[2]["prediction"] == "negative"
    assert outcomes[2]["truth"] == "positive"
    assert outcomes[2]["probability"] == pytest.approx(0.6)
    assert outcomes[2]["truth_probability"] == pytest.approx(0.4)
    assert outcomes[3]["text_pair"] == "so"
    assert summarise_classification(outcomes, ("negative", "positive")) == {
        "accuracy": rate(3, 4),
        "accuracy[negative]": rate(2, 2),
        "accuracy[positive]": rate(1, 2),
    }


def test_labels_are_matched_by_name_else_by_position() -> None:
    def target(*names: str) -> FixedClassifier:
        return FixedClassifier(names, {})

    assert align_labels(("a", "b", "c"), target("C", "A", "B")) == (1, 2, 0)
    assert align_labels(("a", "b"), target("LABEL_0", "LABEL_1")) == (0, 1)
    assert align_labels(("a", "b"), target("b", "B")) == (0, 1)
    with pytest.raises(UserError, match=r"3 classes apart \(x, y, z\).*2 labels \(a, b\)"):
        align_labels(("a", "b"), target("x", "y", "z"))
