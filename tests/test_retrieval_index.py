from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from retrieval_corpus import ASKED, CORPUS, PASSAGES, many_passages, minilm, save_tiny
from tiny import TEXTS

from robustlab.data.records import Corpus, Passage
from robustlab.errors import UserError
from robustlab.retrieval import DenseIndex, Retriever, SentenceEncoder, kinds
from robustlab.retrieval import index as index_module

QUESTIONS = list(ASKED)


@pytest.fixture(scope="module")
def dozen():
    return DenseIndex.build(CORPUS, minilm())


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return SentenceEncoder.load(str(tiny_folder), device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def many():
    return Corpus("many", many_passages(400))


def ids(hits):
    return [[hit.passage.id for hit in row] for row in hits]


def scores(hits):
    return np.array([[hit.score for hit in row] for row in hits])


def test_finds_what_answers_the_question(dozen):
    hits = dozen.search(QUESTIONS, 3)
    assert [row[0].passage.id for row in hits] == list(ASKED.values())
    assert [hit.rank for hit in hits[0]] == [1, 2, 3]
    assert isinstance(dozen, Retriever)


def test_scores_are_cosines_in_falling_order(dozen):
    cosines = minilm().encode(QUESTIONS) @ minilm().encode([p.contents for p in PASSAGES]).T
    hits = dozen.search(QUESTIONS, 12)
    for row, expected in zip(hits, cosines, strict=True):
        order = np.argsort(-expected, kind="stable")
        assert [hit.passage for hit in row] == [PASSAGES[i] for i in order]
        np.testing.assert_allclose([hit.score for hit in row], expected[order], atol=1e-6)


def test_one_by_one_is_the_same_as_all_at_once(dozen):
    together = dozen.search(QUESTIONS, 5)
    alone = [dozen.search([question], 5)[0] for question in QUESTIONS]
    assert ids(together) == ids(alone)
    np.testing.assert_allclose(scores(together), scores(alone), atol=1e-6)


def test_more_than_there_is_gives_all(dozen):
    assert len(dozen) == 12
    assert [len(row) for row in dozen.search(QUESTIONS[:2], 100)] == [12, 12]
    assert dozen.search([], 3) == []


def test_equal_passages_come_in_their_order_wherever_k_cuts():
    copies = tuple(Passage(f"c{n:02}", "", "The heron waits in the reeds.") for n in range(40))
    corpus = Corpus("copies", (PASSAGES[2], *copies, PASSAGES[5]))
    index = DenseIndex.build(corpus, minilm())
    for k in (1, 5, 30):
        for question in (["Which bird waits?"], ["Which bird waits?"] * 40):
            for row in index.search(question, k):
                assert [hit.passage.id for hit in row] == [f"c{n:02}" for n in range(k)]
                assert len({hit.score for hit in row}) == 1


def test_bad_searches(dozen):
    with pytest.raises(UserError, match="the question is empty"):
        dozen.search(["  "], 3)
    with pytest.raises(UserError, match="question 2 is empty"):
        dozen.search(["x", ""], 3)
    with pytest.raises(UserError, match="--top-k must be at least 1, not 0"):
        dozen.search(["x"], 0)


def test_bad_builds():
    with pytest.raises(UserError, match="nothing is empty"):
        DenseIndex.build(Corpus("nothing", ()), minilm())
    with pytest.raises(UserError, match="unknown kind of index 'tree'; there are: flat, hnsw, ivf"):
        DenseIndex.build(CORPUS, minilm(), "tree")
    with pytest.raises(UserError, match="at least 256 passages to learn from, and dozen has 12"):
        DenseIndex.build(CORPUS, minilm(), "ivfpq")


POISON = Passage("poison", "", "How many strings does a violin have? A violin has nine strings.")


def test_added_passages_are_found_and_the_base_stays(dozen):
    before = dozen.search(QUESTIONS, 12)
    view = dozen.with_changes(add=[POISON])
    assert len(view) == 13
    assert view.search([QUESTIONS[1]], 1)[0][0].passage == POISON
    assert dozen.search(QUESTIONS, 12) == before
    assert view.fingerprint() != dozen.fingerprint()
    assert (view.describe()["passages"], view.describe()["added"]) == (13, 1)


def test_removed_passages_are_gone(dozen):
    view = dozen.with_changes(remove=["violin", "tide"])
    assert len(view) == 10
    found = ids(view.search(QUESTIONS, 12))
    assert all(len(row) == 10 and not {"violin", "tide"} & set(row) for row in found)


def test_a_passage_can_be_replaced_under_its_id(dozen):
    edited = Passage("chess", "Chess", "A pawn that reaches the last rank becomes a dragon.")
    view = dozen.with_changes(add=[edited], remove=["chess"])
    assert view.search(["What can a pawn turn into?"], 1)[0][0].passage == edited
    assert len(view) == 12


def test_changes_add_up_and_can_be_taken_back(dozen):
    other = Passage("other", "", "Nine strings make a strange violin.")
    view = dozen.with_changes(add=[POISON, other]).with_changes(remove=["poison", "cod"])
    assert len(view) == 12
    assert "poison" not in ids(view.search([QUESTIONS[1]], 20))[0]
    back = view.with_changes(add=[POISON, PASSAGES[10]], remove=["other"])
    assert len(back) == 13
    assert back.search([QUESTIONS[1]], 1)[0][0].passage == POISON


def test_everything_can_be_removed(dozen):
    empty = dozen.with_changes(remove=[passage.id for passage in PASSAGES])
    assert len(empty) == 0
    assert empty.search(["anything"], 5) == [[]]


def test_a_view_finds_what_a_rebuilt_index_finds(tiny, many):
    random = np.random.default_rng(0)
    index = DenseIndex.build(many, tiny)
    fresh = tuple(Passage(f"n{p.id}", p.title, p.text + " road") for p in many.passages[:30])
    gone = {many.passages[i].id for i in random.choice(400, size=60, replace=False)}
    view = index.with_changes(add=fresh, remove=gone)
    left = tuple(passage for passage in many.passages if passage.id not in gone)
    rebuilt = DenseIndex.build(Corpus("rebuilt", left + fresh), tiny)
    view_hits, rebuilt_hits = view.search(TEXTS, 25), rebuilt.search(TEXTS, 25)
    np.testing.assert_allclose(scores(view_hits), scores(rebuilt_hits), atol=1e-5)
    assert ids(view_hits) == ids(rebuilt_hits)


def test_impossible_changes(dozen):
    with pytest.raises(UserError, match="no passage has the id 'eel'"):
        dozen.with_changes(remove=["eel"])
    with pytest.raises(UserError, match="id 'otter' is there already"):
        dozen.with_changes(add=[Passage("otter", "", "x")])
    with pytest.raises(UserError, match="id 'poison' is there already"):
        dozen.with_changes(add=[POISON, POISON])
    gone = dozen.with_changes(remove=["otter"])
    with pytest.raises(UserError, match="no passage has the id 'otter'"):
        gone.with_changes(remove=["otter"])


@pytest.mark.parametrize("kind", kinds.INDEX_KINDS)
def test_saved_and_loaded_it_finds_the_same(tiny, many, kind, tmp_path):
    index = DenseIndex.build(many, tiny, kind)
    index.save(tmp_path / "deep" / "index")
    loaded = DenseIndex.load(tmp_path / "deep" / "index", tiny, corpus=many)
    assert loaded.search(TEXTS, 7) == index.search(TEXTS, 7)
    assert (loaded.fingerprint(), loaded.kind, len(loaded)) == (index.fingerprint(), kind, 400)
    assert loaded.describe() == index.describe()
    extra = Passage("extra", "", TEXTS[0])
    assert loaded.with_changes(add=[extra]).search(TEXTS[:1], 1)[0][0].passage == extra
    manifest = json.loads((tmp_path / "deep" / "index" / "manifest.json").read_text())
    assert manifest["corpus"] == {
        "name": "many", "fingerprint": many.fingerprint(), "passages": 400,
    }  # fmt: skip
    assert manifest["encoder"]["fingerprint"] == tiny.fingerprint()
    assert manifest["versions"]["faiss-cpu"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_loading_maps_vectors_and_passages(tiny, many, tmp_path):
    DenseIndex.build(many, tiny).save(tmp_path / "index")
    loaded = DenseIndex.load(tmp_path / "index", tiny)
    mapped = Path("/proc/self/maps").read_text()
    for name in ("index.faiss", "passages.jsonl", "passages.npy"):
        assert str(tmp_path / "index" / name) in mapped
    assert loaded.search(TEXTS[:1], 1)


def test_saving_never_overwrites_and_leaves_nothing_half_written(dozen, tmp_path, monkeypatch):
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already and is not empty"):
        dozen.save(folder)
    (folder / "note.txt").unlink()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(index_module, "write_passages", full)
    with pytest.raises(UserError, match=r"cannot be written.*No space left"):
        dozen.save(folder)
    assert list(tmp_path.rglob("*")) == [folder]
    monkeypatch.undo()
    dozen.save(folder)
    assert DenseIndex.load(folder, minilm()).search(QUESTIONS, 2) == dozen.search(QUESTIONS, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    with pytest.raises(ValueError, match="is a view"):
        dozen.with_changes(add=[POISON]).save(tmp_path / "view")


@pytest.fixture
def saved(tiny, many, tmp_path):
    DenseIndex.build(many, tiny).save(tmp_path / "index")
    return tmp_path / "index"


def test_an_index_of_another_encoder_is_refused(saved, tiny, tiny_folder, many):
    with pytest.raises(UserError, match=r"was built by another encoder .*than builtin:retriever"):
        DenseIndex.load(saved, minilm())
    rough = SentenceEncoder.load(str(tiny_folder), device="cpu", dtype="bf16")
    with pytest.raises(UserError, match="built in fp32 and the encoder runs in bf16; pass --dtype"):
        DenseIndex.load(saved, rough)
    longer = SentenceEncoder.load(str(tiny_folder), device="cpu", dtype="fp32")
    longer._settings = "another tokenizer"
    with pytest.raises(UserError, match="another encoder"):
        DenseIndex.load(saved, longer)
    changed = Corpus("many", many.passages[:-1])
    with pytest.raises(UserError, match="was built from another corpus"):
        DenseIndex.load(saved, tiny, corpus=changed)


def test_the_same_model_under_another_name_is_accepted(saved, tiny_folder, tmp_path):
    (tmp_path / "link").symlink_to(tiny_folder)
    renamed = SentenceEncoder.load(str(tmp_path / "link"), device="cpu", dtype="fp32")
    assert len(DenseIndex.load(saved, renamed)) == 400


def test_what_is_no_whole_index_is_refused(saved, tiny, tmp_path):
    with pytest.raises(UserError, match=r"holds no index \(no manifest\.json\)"):
        DenseIndex.load(tmp_path / "absent", tiny)
    manifest = saved / "manifest.json"
    whole = json.loads(manifest.read_text())
    for broken in (
        "{",
        "[]",
        json.dumps({**whole, "corpus": {}}),
        json.dumps({**whole, "kind": "tree"}),
        json.dumps({**whole, "bytes": 3}),
    ):
        manifest.write_text(broken)
        with pytest.raises(UserError, match="is damaged"):
            DenseIndex.load(saved, tiny)
    manifest.write_text(json.dumps({**whole, "format": 99}))
    with pytest.raises(UserError, match="has the format 99"):
        DenseIndex.load(saved, tiny)
    manifest.write_text(json.dumps(whole))
    vectors = (saved / "index.faiss").read_bytes()
    (saved / "index.faiss").write_bytes(vectors[:-10])
    with pytest.raises(UserError, match="is damaged"):
        DenseIndex.load(saved, tiny)
    (saved / "index.faiss").write_bytes(bytes(len(vectors)))
    with pytest.raises(UserError, match="is damaged"):
        DenseIndex.load(saved, tiny)


def recall(approximate, exact):
    pairs = zip(ids(approximate), ids(exact), strict=True)
    return np.mean([len(set(found) & set(right)) / len(right) for found, right in pairs])


def test_approximate_kinds_find_most_of_the_nearest(tiny, many):
    questions = [passage.text + " bridge" for passage in many.passages[:50]]
    exact = DenseIndex.build(many, tiny).search(questions, 10)
    assert recall(DenseIndex.build(many, tiny, "hnsw").search(questions, 10), exact) > 0.98
    assert recall(DenseIndex.build(many, tiny, "ivfpq").search(questions, 10), exact) > 0.5


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_building_is_the_same_with_any_number_of_threads(tiny, many, kind):
    import faiss

    vectors = tiny.encode([passage.text for passage in many.passages])
    threads = faiss.omp_get_max_threads()
    try:
        built = []
        for number in (1, 4):
            faiss.omp_set_num_threads(number)
            built.append(faiss.serialize_index(kinds.make(vectors, kind)))
            assert faiss.omp_get_max_threads() == number
    finally:
        faiss.omp_set_num_threads(threads)
    assert np.array_equal(*built)


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_views_of_approximate_kinds(tiny, many, kind):
    index = DenseIndex.build(many, tiny, kind)
    first = index.search(TEXTS[:1], 1)[0][0]
    twin = Passage("twin", "", first.passage.text)
    view = index.with_changes(add=[twin])
    pair = view.search(TEXTS[:1], 2)[0]
    # A new passage is scored as an old one with the same words, quantised where they are.
    assert {hit.passage.id for hit in pair} == {first.passage.id, "twin"}
    assert pair[0].score == pytest.approx(pair[1].score, abs=1e-5)
    gone = view.with_changes(remove=[first.passage.id, "twin"])
    assert not {first.passage.id, "twin"} & set(ids(gone.search(TEXTS[:1], 20))[0])


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_passages_of_one_question_alone_are_found_as_in_a_view(kind):
    index = DenseIndex.build(CORPUS, minilm(), kind)
    added = [
        [Passage(f"poison:{i}", "", f"{question} {word}.") for i, word in enumerate(("Yes", "No"))]
        for question in QUESTIONS
    ]
    added[1] = []
    found = index.search_with(QUESTIONS, added, 4)
    for question, new, hits in zip(QUESTIONS, added, found, strict=True):
        (expected,) = index.with_changes(add=new).search([question], 4)
        assert [(h.passage, h.rank) for h in hits] == [(h.passage, h.rank) for h in expected]
        np.testing.assert_allclose(scores([hits]), scores([expected]), atol=1e-6)
    nothing = [[] for _ in QUESTIONS]
    assert ids(index.search_with(QUESTIONS, nothing, 4)) == ids(index.search(QUESTIONS, 4))
    assert len(index) == len(PASSAGES)
