"""``robustlab evaluate`` and ``robustlab index`` with real small models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rag_corpus import write_corpus
from tiny import save_tiny

from robustlab.cli.main import cli
from robustlab.runs import RunDirectory

CPU = ["--device", "cpu", "--dtype", "fp32"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_corpus(folder / "towns")
    save_tiny("bert", folder / "bert")
    rows = [("a good book", 2), ("a bad film", 0), ("the house", 1), ("very bad", 0)]
    (folder / "set.csv").write_text(
        "body,mark\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8"
    )
    return folder


def test_a_classifier_with_named_columns(here: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [
        "--target", str(here / "bert"), "--data", str(here / "set.csv"), "--text-column", "body",
        "--label-column", "mark", "--out", str(out), *CPU,
    ]  # fmt: skip
    done = CliRunner().invoke(cli, ["evaluate", *words])
    assert done.exit_code == 0, done.stderr
    assert "accuracy" in done.stdout
    assert str(out / "report.html") in done.stdout.replace("\n", "")
    run = RunDirectory.open(out)
    assert len(run.outcomes()) == 4
    assert run.is_complete
    assert "very bad" in (out / "report.html").read_text(encoding="utf-8")
    again = CliRunner().invoke(cli, ["evaluate", *words])
    assert again.exit_code == 2
    assert "already holds a run" in again.stderr


def test_json_is_the_summary_and_nothing_else(here: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--target", "bm25", "--corpus", str(here / "towns"), "--out", str(out), "--json"]
    done = CliRunner().invoke(cli, ["evaluate", *words])
    found = json.loads(done.stdout)
    assert found["run"] == str(out)
    assert found["recall@5"]["n"] == 4
    assert "recall@5" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--target", "builtin:nothing", "--data", "x.csv"], "no built-in model 'nothing'"),
        (["--target", "no/such/folder", "--data", "x.csv"], "no folder 'no/such/folder'"),
        (["--target", "bm25", "--corpus", "nowhere"], "no data at 'nowhere'"),
        (["--target", "bm25"], "name a corpus with --corpus"),
        (["--target", "builtin:seq2seq", "--device", "cuda:99"], "device"),
        (["--target", "bm25", "--corpus", "fieldguide", "--split", "dev"], "no split 'dev'"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["evaluate", *words])
    assert done.exit_code == 2, done.output
    assert sentence in done.stderr
    assert done.stderr.startswith("robustlab: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


BAD_FILES = {
    "latin.jsonl": (b'{"_id": "1", "text": "caf\xe9"}\n', "latin.jsonl, line 1: not UTF-8"),
    "broken.jsonl": (b'{"_id": "1", "text": "fine"}\n{"_id": \n', "broken.jsonl, line 2"),
    "twice.jsonl": (b'{"_id": "1", "text": "a"}\n' * 2, "a second passage has the id '1'"),
    "empty.jsonl": (b"", "is empty"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_data_are_one_sentence_and_leave_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, sentence = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for words in (
        ["index", name, "--out", "made"],
        ["evaluate", "--target", "bm25", "--corpus", name],
        ["rag-query", "who?", "--corpus", name],
    ):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 2, done.output
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_bad_rows_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    rows = ['{"_id": "1", "text": "fine"}', "not json", '{"_id": "2", "text": "well"}']
    (tmp_path / "some.jsonl").write_text("\n".join(rows), encoding="utf-8")
    words = ["index", str(tmp_path / "some.jsonl"), "--out", str(tmp_path / "made"), *CPU]
    done = CliRunner().invoke(cli, [*words, "--skip-bad-rows", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["passages"], found["skipped_rows"]) == (2, 1)


def test_an_index_is_made_once_and_used(here: Path, tmp_path: Path) -> None:
    folder = tmp_path / "towns.index"
    words = ["index", str(here / "towns"), "--out", str(folder), *CPU]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"12 passages of {here / 'towns'} indexed in {folder} (flat)\n"
    again = CliRunner().invoke(cli, words)
    assert again.exit_code == 2
    assert "not empty" in again.stderr
    used = CliRunner().invoke(
        cli,
        ["evaluate", "--target", "builtin:retriever", "--corpus", str(here / "towns"), "--index",
         str(folder), "--out", str(tmp_path / "run"), "--json", *CPU],
    )  # fmt: skip
    assert used.exit_code == 0, used.stderr
    assert json.loads(used.stdout)["recall@10"]["value"] == 1.0


def test_index_prints_json(here: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x.index"
    done = CliRunner().invoke(
        cli, ["index", str(here / "towns"), "--out", str(folder), "--json", *CPU]
    )
    found = json.loads(done.stdout)
    assert (found["index"], found["passages"], found["kind"]) == (str(folder), 12, "flat")
    assert found["encoder"]["spec"] == "builtin:retriever"
