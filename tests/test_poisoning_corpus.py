from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import drive
from planted_rag import PlantedRag, poison_start, shipped

from robustlab.errors import UserError
from robustlab.poisoning.corpus import CorpusPoisoning, RandomPassages, cluster
from robustlab.poisoning.flips import Flips
from robustlab.poisoning.method import PoisonStart, SharedPoisonMethod
from robustlab.poisoning.methods import build_poison_method

QUESTIONS = ("food", "food food", "food food food", "view", "view view", "view view view")
"""Two groups, each of one and the same embedding."""


def method(init: str = "questions") -> CorpusPoisoning:
    flips = Flips(steps=20, candidates=24, places=3, joins=4, patience=4, ascii_only=True)
    return CorpusPoisoning("corpus-poisoning", flips, 3, init)


def starts(rag: PlantedRag, passages: int = 2, *, closed: bool = False) -> list[PoisonStart]:
    return [poison_start(rag, text, passages=passages, closed=closed) for text in QUESTIONS]


@pytest.mark.parametrize("init", ["questions", "random"])
def test_each_cluster_gets_a_passage_near_its_questions(init: str) -> None:
    rag = PlantedRag()
    poison, _ = drive(method(init).fit(starts(rag), np.random.default_rng(0)), rag)
    assert len(poison.passages) == 2
    assert all(len(text.split()) == 3 for text in poison.passages)
    assert poison.notes is not None
    assert poison.notes["clusters"] == [3, 3]
    for questions in (QUESTIONS[:3], QUESTIONS[3:]):
        wanted = np.mean([rag.embed(text) for text in questions], axis=0)
        nearest = max(float(rag.embed(text) @ wanted) for text in poison.passages)
        assert nearest > 0.8  # three words that are one word's equal are hard to hit from anywhere


def test_it_begins_with_the_words_of_the_nearest_questions() -> None:
    rag = PlantedRag()
    still = replace(method(), flips=replace(method().flips, steps=1, candidates=2, joins=0))
    poison, _ = drive(still.fit(starts(rag), np.random.default_rng(0)), rag)
    assert poison.notes is not None
    assert poison.notes["similarity_before"] == [1.0, 1.0]


def test_there_are_no_more_clusters_than_different_questions() -> None:
    rag = PlantedRag()
    few = [poison_start(rag, text, passages=10) for text in ("food", "film", "food")]
    poison, _ = drive(method().fit(few, np.random.default_rng(0)), rag)
    assert len(poison.passages) == 2


def test_random_passages_ask_nothing() -> None:
    rag = PlantedRag()
    random = RandomPassages("random-passages", 7, True)
    poison, queries = drive(random.fit(starts(rag, 4), np.random.default_rng(0)), rag)
    assert queries == 0
    assert rag.asked == []
    assert [len(text.split()) for text in poison.passages] == [7] * 4
    assert len(set(poison.passages)) == 4


def test_what_it_needs() -> None:
    rag = PlantedRag()
    with pytest.raises(UserError, match="--retriever"):
        drive(method().fit(starts(rag, closed=True), np.random.default_rng(0)), rag)
    with pytest.raises(UserError, match="training questions"):
        drive(method().fit([], np.random.default_rng(0)), rag)


def test_k_means_finds_groups_that_are_there() -> None:
    rng = np.random.default_rng(3)
    centres = np.eye(4, 8)
    points = np.repeat(centres, 25, axis=0) + 0.05 * rng.standard_normal((100, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    found = cluster(points.astype(np.float32), 4, rng)
    groups = found.members.reshape(4, 25)
    assert (groups == groups[:, :1]).all()
    assert sorted(found.sizes) == [25] * 4
    for number, order in enumerate(found.nearest(points.astype(np.float32))):
        products = points[order] @ found.means[number]
        assert (np.diff(products) <= 1e-5).all()


def test_no_cluster_is_empty() -> None:
    points = np.eye(6, dtype=np.float32)
    found = cluster(points, 6, np.random.default_rng(0))
    assert sorted(found.sizes) == [1] * 6
    np.testing.assert_allclose(found.means[found.members], points)


@pytest.mark.parametrize("name", ["corpus-poisoning", "random-passages"])
def test_the_recipes_are_shared_methods(name: str) -> None:
    assert isinstance(build_poison_method(shipped(name)), SharedPoisonMethod)


def test_a_wrong_goal_is_refused() -> None:
    wrong = shipped("corpus-poisoning", **{'"retrieve-poison"': '"no-answer"'})
    with pytest.raises(UserError, match=r"threat\.goal"):
        build_poison_method(wrong)
