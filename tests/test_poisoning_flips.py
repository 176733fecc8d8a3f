from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from planted import drive, recipe
from planted_rag import NoWord, PlantedRag

from robustlab.attack.recipe import Options
from robustlab.defense.protocols import Detector, EmbeddingDetector
from robustlab.errors import UserError
from robustlab.models.target import Embed, FloatArray, Gradient
from robustlab.poisoning.adaptive import Watch
from robustlab.poisoning.flips import Climbed, Draft, Flips, flips_of

FLIPS = Flips(steps=20, candidates=24, places=3, joins=4, patience=4, ascii_only=True)
ONE_PLACE = Flips(steps=20, candidates=20, places=1, joins=0, patience=8, ascii_only=True)


class Sloping(NoWord):
    """The same with a slope in the embedding."""

    def slopes(self, texts: Sequence[str]) -> FloatArray:
        return np.tile(np.array([0, 2, 0, 0, 0, 0], dtype=np.float32), (len(texts), 1))


def climb(
    flips: Flips, drafts: list[Draft], rag: PlantedRag, **more: Any
) -> tuple[tuple[Climbed, ...], int]:
    directions = [rag.embed("food"), rag.embed("view film")][: len(drafts)]
    search = flips.climb(
        drafts, directions, rag.retriever_vocabulary(), np.random.default_rng(0), **more
    )
    return drive(search, rag)


@pytest.mark.parametrize("flips", [FLIPS, ONE_PLACE])
def test_the_words_become_those_of_the_direction(flips: Flips) -> None:
    rag = PlantedRag()
    (found,), _ = climb(flips, [Draft(("the", "long", "room"))], rag)
    assert found.start < 0.9
    # Nothing is nearer to the embedding of "food" than the word itself.
    assert found.similarity == pytest.approx(1.0, abs=0.02)
    assert found.similarity == pytest.approx(
        float(rag.embed(found.draft.text) @ rag.embed("food")), abs=1e-5
    )


def test_the_rest_stays_and_nothing_falls() -> None:
    rag = PlantedRag()
    drafts = [Draft(("the", "long"), "was good, and so on"), Draft(("room",), "the end")]
    found, queries = climb(FLIPS, drafts, rag)
    assert found[0].draft.text.endswith(" was good, and so on")
    assert found[1].draft.text.endswith(" the end")
    assert all(one.similarity >= one.start for one in found)
    assert queries == 2 * found[0].steps


def test_all_passages_share_requests() -> None:
    rag = PlantedRag()
    climb(FLIPS, [Draft(("the",)), Draft(("room",))], rag)
    gradients = [request for request in rag.asked if isinstance(request, Gradient)]
    assert all(len(request.texts) == 2 for request in gradients)


def test_candidates_and_joins_are_as_many_as_the_recipe_says() -> None:
    rag = PlantedRag()
    climb(FLIPS, [Draft(("the", "long", "room", "and", "steady"))], rag)
    sizes = [len(request.texts) for request in rag.asked if isinstance(request, Embed)]
    assert max(sizes) <= FLIPS.candidates - FLIPS.joins
    assert any(0 < size <= FLIPS.joins for size in sizes[1:])


def test_the_budget_ends_it_between_steps() -> None:
    found, queries = climb(FLIPS, [Draft(("the",)), Draft(("room",))], PlantedRag(), queries=5)
    assert (queries, found[0].steps) == (4, 2)


def test_it_ends_where_nothing_helps_any_more() -> None:
    found, _ = climb(FLIPS, [Draft(("food",))], PlantedRag())
    assert (found[0].steps, found[0].draft.text) == (FLIPS.patience, "food")


def test_the_same_seed_gives_the_same_passage() -> None:
    drafts = [Draft(("the", "long", "room"))]
    assert climb(FLIPS, drafts, PlantedRag()) == climb(FLIPS, drafts, PlantedRag())


def test_a_watch_is_kept_and_comes_first() -> None:
    rag = PlantedRag()
    watch = Watch((NoWord("food"),))
    (found,), _ = climb(FLIPS, [Draft(("the", "long"))], rag, watch=watch)
    assert "food" not in found.draft.words
    assert found.excess == 0
    (caught,), _ = climb(FLIPS, [Draft(("food", "food"))], rag, watch=watch)
    assert "food" not in caught.draft.words
    assert caught.similarity < 1.0  # it gave that up to get past the filter


def test_excess_counts_above_the_threshold_only() -> None:
    detector = NoWord("weak")
    detector.threshold = 2.0
    watch = Watch((detector, NoWord("good")))
    texts = ["weak weak", "weak weak weak weak", "good"]
    np.testing.assert_allclose(watch.excess(texts), [0.0, 1.0, 1.0])
    assert Watch().excess(texts).tolist() == [0, 0, 0]


def test_gradients_lead_off_a_filter_that_has_slopes() -> None:
    direction = np.array([3, 0, 0, 0, 0, 0], dtype=np.float32)
    assert isinstance(Sloping("weak"), EmbeddingDetector)
    assert isinstance(NoWord("weak"), Detector)
    watch = Watch((Sloping("weak"), NoWord("good")))
    np.testing.assert_allclose(watch.away("weak good", direction), [1, -1, 0, 0, 0, 0])
    np.testing.assert_allclose(watch.away("fair good", direction), [1, 0, 0, 0, 0, 0])


def test_joins_must_leave_candidates() -> None:
    search = "steps=1\ncandidates=4\nplaces=1\njoins=4\npatience=1\nascii_only=true"
    made = recipe("hotflip", search)
    with pytest.raises(UserError, match=r"4 search\.candidates"):
        flips_of(Options(made, "search", made.search))
