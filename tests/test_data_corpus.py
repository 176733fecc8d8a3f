from __future__ import annotations

import json

import pytest

from robustlab.data import Passage, Question, load_corpus, select_split
from robustlab.errors import UserError

PASSAGES = [
    {"_id": "p1", "title": "Heron", "text": "The heron waits."},
    {"_id": "p2", "title": "", "text": "Otters swim."},
    {"_id": "p3", "text": ""},
]
QUESTIONS = [
    {"_id": "q1", "text": "Who waits?", "answers": ["the heron", "heron", "heron"]},
    {"_id": "q2", "text": "Who swims?"},
]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "birds"
    (folder / "qrels").mkdir(parents=True)
    jsonl(folder / "corpus.jsonl", PASSAGES)
    jsonl(folder / "queries.jsonl", QUESTIONS)
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq2\tp2\t2\nq1\tp1\t1\nq1\tp2\t0\n"
    )
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tp1\t1\n")
    return folder


def test_beir_folder(beir):
    corpus = load_corpus(str(beir))
    assert corpus.name == "birds"
    assert corpus.passages == (
        Passage("p1", "Heron", "The heron waits."),
        Passage("p2", "", "Otters swim."),
        Passage("p3", "", ""),
    )
    first = Question("q1", "Who waits?", ("the heron", "heron"), ("p1",))
    assert corpus.questions == {
        "test": (first, Question("q2", "Who swims?", (), ("p2",))),
        "train": (first,),
    }


def test_select_split(beir, tmp_path):
    corpus = load_corpus(str(beir))
    assert select_split(corpus) == ("test", corpus.questions["test"])
    assert select_split(corpus, "train")[1][0].id == "q1"
    with pytest.raises(UserError, match="birds has no split 'dev'; it has: test, train"):
        select_split(corpus, "dev")
    alone = load_corpus(str(jsonl(tmp_path / "alone.jsonl", PASSAGES[:2])))
    with pytest.raises(UserError, match="alone has passages but no questions"):
        select_split(alone)


def test_questions_without_qrels_are_one_split_without_gold(beir):
    for file in (beir / "qrels").iterdir():
        file.unlink()
    assert load_corpus(str(beir)).questions == {
        "all": (
            Question("q1", "Who waits?", ("the heron", "heron")),
            Question("q2", "Who swims?"),
        )
    }


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("corpus.jsonl", '{"_id": "p1", "text": "x"}', "line 4: a second passage has the id 'p1'"),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}', "line 3: a second question has the id"),
        ("corpus.jsonl", '{"_id": "p9"}', "line 4: 'text' is missing"),
        ("queries.jsonl", '{"_id": "q9", "text": ""}', "line 3: 'text' is empty"),
        ("queries.jsonl", '{"_id": "q9", "text": "x", "answers": [1]}', "line 3: 'answers' is"),
        ("qrels/test.tsv", "q1\tp9\t1", "line 5: no passage has the id 'p9'"),
        ("qrels/test.tsv", "q9\tp1\t1", "line 5: no question has the id 'q9'"),
        ("qrels/test.tsv", "q1\tp1\thigh", "line 5: the score 'high' is not a number"),
        ("qrels/test.tsv", "q1 p1 1", "line 5: 1 cells"),
    ],
)
def test_malformed_beir_rows_have_file_and_line(beir, file, line, reason):
    with (beir / file).open("a") as handle:
        handle.write(line + "\n")
    with pytest.raises(UserError, match=rf"{file}, {reason}"):
        load_corpus(str(beir))
    if "second" in reason:  # ambiguous ids are not rows to skip
        with pytest.raises(UserError, match="a second"):
            load_corpus(str(beir), skip_bad_rows=True)
    else:
        assert load_corpus(str(beir), skip_bad_rows=True).skipped_rows == 1


def test_qrels_of_a_skipped_passage_are_skipped_too(beir):
    jsonl(beir / "corpus.jsonl", [{"_id": "p1"}, PASSAGES[1]])
    corpus = load_corpus(str(beir), skip_bad_rows=True)
    assert corpus.skipped_rows == 3  # the passage and its two judgements
    assert [question.gold for question in corpus.questions["test"]] == [(), ("p2",)]


def test_qrels_need_their_header(beir):
    (beir / "qrels" / "test.tsv").write_text("q1\tp1\t1\nq2\tp2\t1\n")
    with pytest.raises(UserError, match=r"test\.tsv does not begin with the column names query-id"):
        load_corpus(str(beir))


def test_empty_and_absent_corpora(beir, tmp_path):
    (beir / "corpus.jsonl").write_text("")
    for file in [beir / "queries.jsonl", *(beir / "qrels").iterdir()]:
        file.unlink()
    with pytest.raises(UserError, match="birds is empty"):
        load_corpus(str(beir))
    (beir / "corpus.jsonl").unlink()
    with pytest.raises(UserError, match=r"is no corpus: it has no corpus\.jsonl"):
        load_corpus(str(beir))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match="unknown kind of file"):
        load_corpus(str(tmp_path / "a.txt"))


def test_rows_of_passages_with_mapped_columns(tmp_path):
    file = tmp_path / "notes.csv"
    file.write_text("key,head,body\n1,Heron,It waits.\n2,,It swims.\n")
    corpus = load_corpus(str(file), id_column="key", title_column="head", text_column="body")
    assert corpus.passages == (Passage("1", "Heron", "It waits."), Passage("2", "", "It swims."))
    assert corpus.questions == {}
    with pytest.raises(UserError, match=r"no text column .*its columns are: key, head, body"):
        load_corpus(str(file))
    with pytest.raises(UserError, match="has no title column 'top'"):
        load_corpus(str(file), text_column="body", title_column="top")


def test_rows_with_questions_keep_each_passage_once(tmp_path):
    rows = [
        {"id": "a", "context": "Otters swim.", "question": "Who?", "answers": {"text": ["otters"]}},
        {"id": "b", "context": "Herons wait.", "question": "Who waits?", "answers": ["herons"]},
        {"id": "c", "context": "Otters swim.", "question": "What do they do?", "answers": "swim"},
    ]
    corpus = load_corpus(str(jsonl(tmp_path / "qa.jsonl", rows)))
    assert [p.text for p in corpus.passages] == ["Otters swim.", "Herons wait."]
    assert corpus.questions["all"] == (
        Question("a", "Who?", ("otters",), ("p0",)),
        Question("b", "Who waits?", ("herons",), ("p1",)),
        Question("c", "What do they do?", ("swim",), ("p0",)),
    )
    rows.append({"id": "a", "context": "x", "question": "y", "answers": []})
    with pytest.raises(UserError, match=r"qa\.jsonl, line 4: a second question has the id 'a'"):
        load_corpus(str(jsonl(tmp_path / "qa.jsonl", rows)))


def test_duplicate_ids_in_a_file_of_passages(tmp_path):
    file = jsonl(tmp_path / "p.jsonl", [PASSAGES[0], PASSAGES[0]])
    with pytest.raises(UserError, match=r"p\.jsonl, line 2: a second passage has the id 'p1'"):
        load_corpus(str(file))


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Grey_heron",
            "paragraphs": [
                {
                    "context": "The heron waits.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Who waits?",
                            "answers": [
                                {"text": "The heron", "answer_start": 0},
                                {"text": "heron", "answer_start": 4},
                                {"text": "heron", "answer_start": 4},
                            ],
                            "is_impossible": False,
                        },
                        {
                            "id": "q2",
                            "question": "Who runs?",
                            "answers": [],
                            "is_impossible": True,
                        },
                    ],
                },
                {"context": "The heron waits.", "qas": []},
                {"context": "It eats fish.", "qas": []},
            ],
        }
    ],
}


def test_squad_of_both_versions(tmp_path):
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(SQUAD))
    corpus = load_corpus(str(file))
    assert corpus.name == "dev"
    assert corpus.passages == (
        Passage("p0", "Grey heron", "The heron waits."),
        Passage("p1", "Grey heron", "It eats fish."),
    )
    assert corpus.questions == {
        "all": (
            Question("q1", "Who waits?", ("The heron", "heron"), ("p0",)),
            Question("q2", "Who runs?", (), ("p0",)),
        )
    }
    first = SQUAD["data"][0]["paragraphs"][0]["qas"][0]
    version_1 = {
        "data": [
            {
                "title": "Heron",
                "paragraphs": [
                    {
                        "context": "The heron waits.",
                        "qas": [{key: first[key] for key in ("id", "question", "answers")}],
                    }
                ],
            }
        ]
    }
    file.write_text(json.dumps(version_1))
    assert load_corpus(str(file)).questions["all"][0].answers == ("The heron", "heron")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda article: article["paragraphs"][2].pop("context"), "article 1, paragraph 3: 'cont"),
        (lambda article: article["paragraphs"][0]["qas"][0].pop("id"), "paragraph 1, question 1: "),
        (lambda article: article["paragraphs"][0]["qas"][0].pop("answers"), "question 1: 'answers"),
        (lambda article: article.update(paragraphs=None), "article 1: 'paragraphs' is not a list"),
        (lambda article: article["paragraphs"].append([]), "paragraph 4: not a JSON object"),
    ],
)
def test_malformed_squad_names_the_place(tmp_path, change, place):
    content = json.loads(json.dumps(SQUAD))
    content["data"].append({"title": "B", "paragraphs": [{"context": "More.", "qas": []}]})
    change(content["data"][0])
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"dev\.json, .*{place}"):
        load_corpus(str(file))
    assert load_corpus(str(file), skip_bad_rows=True).skipped_rows == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"data": [', "not JSON"),
        (b'["data"]', "is no SQuAD file"),
        (b'{"data": {}}', "is no SQuAD file"),
        (b'{"data": "\xe9"}', "not UTF-8"),
    ],
)
def test_what_is_no_squad_file(tmp_path, content, reason):
    file = tmp_path / "dev.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        load_corpus(str(file))
