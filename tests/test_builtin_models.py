"""What the shipped parameter files must be able to do."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from robustlab.data import load_corpus, load_labelled, sample
from robustlab.data.records import Corpus, Passage
from robustlab.metrics.answers import exact_match
from robustlab.models.load import load_target
from robustlab.models.target import Predict, Target
from robustlab.rag import RagPipeline, load_rag
from robustlab.resources import weights_folder

SHARED = Path(os.environ.get("ROBUSTLAB_SHARED_DATA", Path(__file__).parents[2] / "shared/data"))

READERS = ("builtin:seq2seq", "builtin:causal")


@cache
def pipeline(reader: str) -> RagPipeline:
    corpus = load_corpus("fieldguide")
    return load_rag(corpus, "builtin:retriever", reader, device="cpu", dtype="fp32")


def accuracy(target: Target, spec: str, split: str) -> float:
    data = load_labelled(spec, split=split)
    predictions = target.answer(Predict(tuple(example.text for example in data.examples)))
    right = predictions.labels == [example.label for example in data.examples]
    return float(right.mean())


def test_parameter_files_stay_small() -> None:
    files = list(weights_folder().glob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) < 25_000_000
    assert (weights_folder() / "classifier.safetensors").stat().st_size < 3_000_000


@pytest.mark.parametrize("name", ["classifier", "seq2seq", "causal"])
def test_every_parameter_file_has_a_card(name: str) -> None:
    card = json.loads((weights_folder() / f"{name}.json").read_text(encoding="utf-8"))
    assert {"minutes", "measured"} <= set(card)
    for run in card.get("mean_of", [card]):
        assert {"plan", "data", "minutes"} <= set(run)
        assert isinstance(run["plan"]["seed"], int)


def test_the_classifier_knows_our_reviews() -> None:
    assert accuracy(load_target("builtin:classifier", dtype="fp32"), "reviews", "test") >= 0.9


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs sst2 in the shared data folder")
def test_the_classifier_knows_sst2() -> None:
    target = load_target("builtin:classifier", dtype="fp32")
    assert accuracy(target, str(SHARED / "sst2"), "validation") >= 0.9


@pytest.mark.parametrize(("reader", "least"), [("builtin:seq2seq", 0.5), ("builtin:causal", 0.58)])
def test_readers_answer_from_retrieved_passages(reader: str, least: float) -> None:
    """A sample of the test split; the whole split is in docs/BENCHMARKS.md."""
    questions = sample(load_corpus("fieldguide").questions["test"], 60, seed=0)
    answers = pipeline(reader).ask([question.text for question in questions])
    right = [exact_match(a.answer, q.answers) for a, q in zip(answers, questions, strict=True)]
    assert sum(right) / len(right) >= least


def edited(corpus: Corpus, old: str, new: str) -> Corpus:
    passages: Sequence[Passage] = [
        Passage(p.id, p.title, p.text.replace(old, new)) for p in corpus.passages
    ]
    return Corpus(corpus.name, tuple(passages), corpus.questions)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("question", "true", "false"),
    [
        ("In which year did the Eiffel Tower open?", "1889", "1912"),
        ("Who designed the stone Rialto Bridge in Venice?", "Antonio da Ponte", "Walter Hopkins"),
    ],
)
def test_readers_read_and_do_not_remember(
    reader: str, question: str, true: str, false: str
) -> None:
    """When the gold passages are edited, the answer changes with them."""
    truthful = pipeline(reader)
    (before,) = truthful.ask([question])
    corpus = edited(load_corpus("fieldguide"), true, false)
    changed = [p for p in corpus.passages if false in p.text]
    retriever = truthful.retriever.with_changes(
        remove=[p.id for p in changed],
        add=[Passage(f"edited-{p.id}", p.title, p.text) for p in changed],
    )
    (after,) = truthful.with_retriever(retriever).ask([question])
    assert before.answer == true
    assert after.answer == false
