from __future__ import annotations

import math

import pytest
from retrieval_corpus import ASKED, CORPUS, PASSAGES

from robustlab.data.records import Corpus, Passage
from robustlab.errors import UserError
from robustlab.retrieval import LexicalIndex, Retriever

FOUR = Corpus(
    "four",
    (
        Passage("a", "", "river otter"),
        Passage("b", "", "river river bridge stone"),
        Passage("c", "", "heron"),
        Passage("d", "", "stone heron heron"),
    ),
)


@pytest.fixture(scope="module")
def four():
    return LexicalIndex.build(FOUR)


def ids(hits):
    return [[hit.passage.id for hit in row] for row in hits]


def bm25(tf, df, length, mean=2.5, total=4):
    """Robertson & Zaragoza 2009 with Lucene's idf, k1 = 1.5 and b = 0.75."""
    idf = math.log(1 + (total - df + 0.5) / (df + 0.5))
    return idf * tf / (tf + 1.5 * (0.25 + 0.75 * length / mean))


def test_scores_by_hand(four):
    (hits,) = four.search(["River stone"], 5)
    # Both words are in two passages; a is shorter than d, so its one match counts for more.
    assert [(hit.passage.id, hit.rank) for hit in hits] == [("b", 1), ("a", 2), ("d", 3)]
    expected = [
        bm25(tf=2, df=2, length=4) + bm25(tf=1, df=2, length=4),
        bm25(tf=1, df=2, length=2),
        bm25(tf=1, df=2, length=3),
    ]
    assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-6)
    assert hits[1].score == pytest.approx(math.log(2) / 2.275, abs=1e-6)


def test_finds_shared_words_and_nothing_else():
    index = LexicalIndex.build(CORPUS)
    assert isinstance(index, Retriever)
    hits = index.search(["How many strings does a violin have?", "zebra", "the of and"], 3)
    assert hits[0][0].passage.id == "violin"
    assert hits[1:] == [[], []]
    assert index.search([], 3) == []
    found = [row[0].passage.id for row in index.search(list(ASKED), 1)]
    assert found.count("violin") == 1


def test_ties_come_in_order_of_position():
    copies = tuple(Passage(f"c{n}", "", "grey heron") for n in range(9))
    index = LexicalIndex.build(Corpus("copies", (*copies, PASSAGES[0])))
    assert ids(index.search(["grey"], 4)) == [["c0", "c1", "c2", "c3"]]


def test_an_added_passage_scores_as_if_the_statistics_were_the_bases(four):
    added = Passage("e", "", "stone kestrel otter")
    view = four.with_changes(add=[added])
    (hits,) = view.search(["otter kestrel"], 5)
    assert ids([hits]) == [["e", "a"]]
    # "kestrel" is in no passage of the base, so its df counts as 1.
    assert hits[0].score == pytest.approx(2 * bm25(tf=1, df=1, length=3), abs=1e-6)
    assert hits[1].score == pytest.approx(bm25(tf=1, df=1, length=2), abs=1e-6)
    assert ids(four.search(["kestrel"], 5)) == [[]]
    assert len(view) == 5


def test_an_added_copy_ties_with_the_original(four):
    view = four.with_changes(add=[Passage("twin", "", "river river bridge stone")])
    first, second = view.search(["stone bridge over the river"], 2)[0]
    assert (first.passage.id, second.passage.id) == ("b", "twin")
    assert first.score == second.score


def test_changes_add_up(four):
    view = four.with_changes(add=[Passage("e", "", "otter")], remove=["a"])
    assert ids(view.search(["otter"], 5)) == [["e"]]
    view = view.with_changes(add=[Passage("a", "", "otter den")], remove=["e"])
    assert ids(view.search(["otter"], 5)) == [["a"]]
    assert ids(four.search(["otter"], 5)) == [["a"]]
    assert four.search(["otter"], 5)[0][0].passage.text == "river otter"
    prints = {four.fingerprint(), view.fingerprint(), four.with_changes(remove=["a"]).fingerprint()}
    assert len(prints) == 3
    assert (view.describe()["added"], view.describe()["removed"]) == (1, 1)
    with pytest.raises(UserError, match="no passage has the id 'z'"):
        four.with_changes(remove=["z"])
    with pytest.raises(UserError, match="id 'b' is there already"):
        four.with_changes(add=[Passage("b", "", "x")])


def test_bad_input(four):
    with pytest.raises(UserError, match="nothing is empty"):
        LexicalIndex.build(Corpus("nothing", ()))
    with pytest.raises(UserError, match="hold no words"):
        LexicalIndex.build(Corpus("stops", (Passage("a", "", "the of ?"),)))
    with pytest.raises(UserError, match="the question is empty"):
        four.search([""], 1)
    with pytest.raises(UserError, match="at least 1"):
        four.search(["x"], 0)


def test_passages_of_one_question_alone_are_found_as_in_a_view(four):
    added = [[Passage("poison:0", "", "river river river")], []]
    found = four.search_with(["river", "river"], added, 3)
    assert ids(found) == [["poison:0", "b", "a"], ["b", "a"]]
    assert found[0] == four.with_changes(add=added[0]).search(["river"], 3)[0]
