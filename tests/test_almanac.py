"""The almanac: same seed, same bytes; every answer stands in its passage; names are unique."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_almanac.py"


def load_script() -> ModuleType:
    """The script as a module: scripts/ is no package."""
    spec = importlib.util.spec_from_file_location("make_almanac", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


make_almanac = load_script()
ALMANAC = make_almanac.make_almanac(600, seed=7)
PASSAGES = {passage.id: passage for passage in ALMANAC.passages}


def write(out: Path, *options: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """Runs the script as a user does."""
    command = [sys.executable, str(SCRIPT), "--passages", "40", "--out", str(out), *options]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_same_seed_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    assert write(tmp_path / "a", "--seed", "3", hash_seed="1").returncode == 0
    assert write(tmp_path / "b", "--seed", "3", hash_seed="2").returncode == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_another_seed_tells_of_another_world() -> None:
    other = make_almanac.make_almanac(50, seed=8)
    assert not {page.text for page in other.passages} & {page.text for page in ALMANAC.passages}


def test_a_small_almanac_begins_a_large_one() -> None:
    small = make_almanac.make_almanac(25, seed=7)
    assert small.passages == ALMANAC.passages[:25]
    assert small.questions == ALMANAC.questions[: len(small.questions)]


def test_the_dice_are_those_of_every_python_version() -> None:
    dice = make_almanac.Dice("almanac/0/0")
    assert [dice.between(1, 1000) for _ in range(5)] == [715, 479, 722, 177, 384]


def test_every_answer_stands_in_its_passage_as_whole_words() -> None:
    for question in ALMANAC.questions:
        assert question.answers
        for page in question.passage_ids:
            for answer in question.answers:
                pattern = rf"(?<!\w){re.escape(answer)}(?!\w)"
                assert re.search(pattern, PASSAGES[page].text), question


def test_answers_have_one_to_five_words() -> None:
    lengths = {len(answer.split()) for q in ALMANAC.questions for answer in q.answers}
    assert lengths == {1, 2, 3, 4, 5}


def test_passages_keep_their_bounds() -> None:
    for passage in ALMANAC.passages:
        assert 45 <= len(passage.text.split()) <= 120, passage
    counts = Counter(q.passage_ids[0] for q in ALMANAC.questions)
    assert set(counts) == set(PASSAGES)
    assert set(counts.values()) == {3, 4, 5}


def test_ids_and_questions_are_unique() -> None:
    assert len(PASSAGES) == len(ALMANAC.passages)
    assert len({question.id for question in ALMANAC.questions}) == len(ALMANAC.questions)
    texts = {question.text.lower().rstrip("?.") for question in ALMANAC.questions}
    assert len(texts) == len(ALMANAC.questions)


def test_the_text_is_clean_english() -> None:
    faults = re.compile(
        r"\b(\w+) \1\b|\b[Aa] [aei]|\b(?:the|an?) (?:the|an?)\b|[{}]|  | [,.;?]|[,.;][,.;]"
    )
    for text in (*(p.text for p in ALMANAC.passages), *(q.text for q in ALMANAC.questions)):
        assert not (fault := faults.search(text)), (fault, text)
    for passage in ALMANAC.passages:
        assert not re.search(r"\. [a-z]", passage.text), passage.text
        assert passage.text[0].isupper() or passage.text[0] == '"'


@pytest.mark.parametrize("kind", make_almanac.load_grammar().kinds, ids=lambda kind: kind.name)
def test_a_kind_has_enough_relations_and_phrasings(kind: make_almanac.Kind) -> None:
    assert len(kind.relations) >= 6
    assert len(kind.intro) >= 3  # a passage has up to three subjects
    for relation in kind.relations:
        assert len(set(relation.say + relation.aside)) >= 6, relation.name
        assert len(set(relation.ask)) >= 5, relation.name
        for pattern in relation.say + relation.aside + relation.ask + relation.reverse:
            slots = set(make_almanac.SLOT.findall(pattern))
            assert slots <= make_almanac.LATE_SLOTS, pattern
    for pattern in kind.intro + kind.stray:  # these have no subject of their own
        assert not set(make_almanac.SLOT.findall(pattern)) & make_almanac.LATE_SLOTS, pattern


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("a otter", "an otter"),
        ("A 8-sided", "An 8-sided"),
        ("an unicorn", "a unicorn"),
        ("a once popular", "a once popular"),
        ('in "a Island"', 'in "an Island"'),
        ("R. A. Orr", "R. A. Orr"),
    ],
)
def test_articles_fit_the_next_word(text: str, right: str) -> None:
    assert make_almanac.with_articles(text) == right


def test_the_folder_is_a_beir_corpus(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "almanac"
    assert write(out, "--split", "validation").returncode == 0
    lines = (out / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    corpus = {row["_id"]: row for row in map(json.loads, lines)}
    lines = (out / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    queries = {row["_id"]: row for row in map(json.loads, lines)}
    header, *rows = (out / "qrels" / "validation.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    pairs = [row.split("\t") for row in rows]
    assert {query for query, _, _ in pairs} == set(queries)
    for query, page, score in pairs:
        assert score == "1"
        assert all(answer in corpus[page]["text"] for answer in queries[query]["answers"])
    card = tomllib.loads((out / "card.toml").read_text(encoding="utf-8"))
    assert card["licence"] == "Apache-2.0"
    assert card["counts"] == {"passages": len(corpus), "questions": len(queries)}
    assert card["splits"] == {"validation": len(queries)}
    assert [path.name for path in out.parent.iterdir()] == ["almanac"]


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    result = write(tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.strip().count("\n") == 0
    assert "exists already" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(make_almanac, "_qrels", fail)
    arguments = ["--passages", "2", "--out", str(tmp_path / "almanac")]
    assert make_almanac.main(arguments) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [["--passages", "0"], ["--split", "../x"], ["--passages", "x"]])
def test_a_bad_option_is_the_users_mistake(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        make_almanac.main(["--out", str(tmp_path / "almanac"), *options])
