from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustlab.attack.neighbours import Neighbours
from robustlab.attack.wordnet import WordNet, find_wordnet
from robustlab.errors import UserError

SHARED = Path(os.environ.get("ROBUSTLAB_SHARED_DATA", "../shared/data"))

# Two clusters of adjectives, each around a central one, and a noun. The offsets are those at which
# the lines of DATA begin.
DATA = """\
  1 WordNet 3.1 as small as it gets
00000036 00 a 01 good 0 002 ! 00000107 a 0101 & 00000186 a 0000 | fine
00000107 00 a 02 bad 0 ill(p) 0 002 ! 00000036 a 0101 & 00000245 a 0000 | foul
00000186 00 s 01 great 0 001 & 00000036 a 0000 | very good
00000245 00 s 01 awful 0 001 & 00000107 a 0000 | very bad
"""
INDEX = """\
  1 WordNet
awful a 1 1 & 1 0 00000245
bad a 1 2 ! & 1 0 00000107
good a 1 2 ! & 1 0 00000036
great a 1 1 & 1 0 00000186
ill a 1 2 ! & 1 0 00000107
"""


@pytest.fixture
def _fresh_search() -> Iterator[None]:
    find_wordnet.cache_clear()
    yield
    find_wordnet.cache_clear()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, _fresh_search: None) -> Path:
    """No WordNet on this machine, but for what a test puts into this folder."""
    monkeypatch.setattr("robustlab.attack.wordnet._nltk_folders", lambda: [tmp_path])
    return tmp_path


def small_files() -> dict[str, bytes]:
    files = {
        f"{kind}.{part}": b"" for kind in ("index", "data") for part in ("adv", "noun", "verb")
    }
    files |= {f"{part}.exc": b"" for part in ("adv", "noun", "verb")}
    exceptions = b"best good\nbetter good\nworse bad\n"
    return files | {
        "data.adj": DATA.encode(), "index.adj": INDEX.encode(), "adj.exc": exceptions
    }  # fmt: skip


def test_the_offsets_of_the_small_wordnet_are_right() -> None:
    for line in DATA.splitlines()[1:]:
        assert DATA.index(line) == int(line[:8])


def test_antonyms_reach_around_the_central_adjectives() -> None:
    wordnet = WordNet(small_files())
    assert wordnet.version == "3.1"
    assert wordnet.antonyms("good") == {"bad", "ill", "awful"}
    assert wordnet.antonyms("awful") == {"good", "great"}
    assert wordnet.antonyms("film") == frozenset()


@pytest.mark.parametrize(
    ("one", "other", "opposed"),
    [
        ("good", "bad", True),
        ("great", "awful", True),
        ("ill", "good", True),
        ("good", "great", False),
        ("better", "worse", True),  # irregular forms
        ("greater", "bad", True),  # regular ones
        ("er", "good", False),  # nothing is left of it without its ending
        ("film", "good", False),
    ],
)
def test_opposites_in_any_form(one: str, other: str, opposed: bool) -> None:
    wordnet = WordNet(small_files())
    assert wordnet.opposed(one, other) is opposed
    assert wordnet.opposed(other, one) is opposed


def test_neighbours_are_synonyms_and_the_nearest_come_first() -> None:
    neighbours = Neighbours(k=4, min_cosine=0.4)
    assert neighbours.of("terrible") == ("horrible", "awful", "dreadful", "horrific")
    assert neighbours.of("film") == ("movie", "cinema", "documentary", "cinematic")
    assert Neighbours(k=4, min_cosine=0.65).of("terrible") == ("horrible", "awful")


def test_inflections_are_no_synonyms() -> None:
    neighbours = Neighbours(k=50, min_cosine=0.3)
    assert not {"films", "filming", "filmed", "movies"} & set(neighbours.of("film"))
    assert {"adored", "enjoyed"} <= set(neighbours.of("loved"))
    assert not {"love", "loves", "loving", "enjoy"} & set(neighbours.of("loved"))
    assert all(word.endswith("ly") for word in neighbours.of("quickly"))


def test_stopwords_replace_nothing_and_unknown_words_have_no_neighbours() -> None:
    assert "horrible" not in Neighbours(4, 0.4, stopwords=frozenset({"horrible"})).of("terrible")
    assert Neighbours(4, 0.4).of("qwxyz") == ()
    assert Neighbours(4, 0.4).of("") == ()


def test_without_wordnet_antonyms_are_kept_and_the_run_says_so(nowhere: Path) -> None:
    known = Neighbours(8, 0.4, "exclude-if-known")
    assert known.note == "kept, because WordNet is not on this machine"
    assert "expensive" in known.of("cheap")
    with pytest.raises(UserError, match="NLTK_DATA"):
        Neighbours(8, 0.4, "exclude")
    assert Neighbours(8, 0.4, "keep").note == "kept"


@pytest.mark.parametrize("zipped", [False, True])
def test_with_wordnet_antonyms_are_excluded(nowhere: Path, zipped: bool) -> None:
    import shutil

    folder = nowhere / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    for name, content in small_files().items():
        (folder / name).write_bytes(content)
    if zipped:
        shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
        shutil.rmtree(folder)
    excluded = Neighbours(8, 0.4, "exclude")
    assert excluded.note == "excluded with WordNet 3.1"
    assert "bad" in Neighbours(8, 0.4, "keep").of("good")
    assert "bad" not in excluded.of("good")
    assert "great" in excluded.of("good")


def test_a_broken_wordnet_is_named(nowhere: Path) -> None:
    (nowhere / "corpora").mkdir()
    (nowhere / "corpora" / "wordnet.zip").write_bytes(b"nothing")
    with pytest.raises(UserError, match="wordnet is not WordNet"):
        find_wordnet()


@pytest.mark.skipif(
    not (SHARED / "nltk_data/corpora/wordnet.zip").is_file(), reason="no WordNet beside the project"
)
@pytest.mark.usefixtures("_fresh_search")
def test_the_real_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLTK_DATA", str(SHARED / "nltk_data"))
    wordnet = find_wordnet()
    assert wordnet is not None
    assert wordnet.version == "3.0"
    for one, other in [("cheap", "expensive"), ("loved", "hated"), ("slow", "faster"),
                       ("great", "terrible"), ("never", "always"), ("worst", "best")]:  # fmt: skip
        assert wordnet.opposed(one, other), (one, other)
    for one, other in [("great", "good"), ("film", "movie"), ("broken", "shattered")]:
        assert not wordnet.opposed(one, other), (one, other)
