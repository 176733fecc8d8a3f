"""``robustlab certify`` with real small models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rag_corpus import write_corpus
from tiny import save_tiny

from robustlab.cli.main import cli
from robustlab.defense.certify import check_bound
from robustlab.runs import RunDirectory

CPU = ["--device", "cpu", "--dtype", "fp32"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certify")
    write_corpus(folder / "towns")
    save_tiny("bert", folder / "bert")
    save_tiny("bert", folder / "encoder", head="AutoModel")
    save_tiny("t5", folder / "t5")
    (folder / "prompt.txt").write_text(
        "--- prompt ---\n{question} {passages}\n--- passage ---\n{text}\n", encoding="utf-8"
    )
    rows = [("a good book", 2), ("a bad film", 0), ("the house", 1), ("very bad", 0)]
    (folder / "set.csv").write_text(
        "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8"
    )
    return folder


def rag(here: Path, *more: str) -> list[str]:
    return [
        "certify", "--corpus", str(here / "towns"), "--retriever", str(here / "encoder"),
        "--generator", str(here / "t5"), "--prompt", str(here / "prompt.txt"), "--top-k", "4",
        "--max-new-tokens", "4", *CPU, *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "defense", ["majority-vote", "keyword-aggregation", "decoding-aggregation"]
)
def test_a_pipeline(here: Path, tmp_path: Path, defense: str) -> None:
    out = tmp_path / "run"
    done = CliRunner().invoke(cli, rag(here, "--defense", defense, "--out", str(out), "--json"))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["certified_accuracy"]["n"] == 4
    assert found["certified_accuracy"]["value"] <= found["clean_accuracy"]["value"]
    assert "certified accuracy" in done.stderr
    run = RunDirectory.open(out)
    assert run.manifest["certificate"] == {"corrupted": 1, "of": 4, "threat": "insertion"}
    assert run.manifest["target"]["defenses"][0]["name"] == defense
    for outcome in run.outcomes():
        assert outcome["certified"] <= outcome["exact_match"]
        assert {"prediction", "reachable", "certified_contains"} <= outcome.keys()


def test_a_classifier(here: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["certify", "--target", str(here / "bert"), "--data", str(here / "set.csv"), *CPU]
    done = CliRunner().invoke(cli, [*words, "--defense", "ranmask", "--out", str(out)])
    assert done.exit_code == 0, done.output
    run = RunDirectory.open(out)
    assert run.manifest["certificate"]["confidence"] == pytest.approx(0.999)
    assert len(run.outcomes()) == 4
    assert run.summary is not None
    assert run.summary["certified_accuracy"]["value"] <= run.summary["clean_accuracy"]["value"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--defense", "majority-vote", "--corrupted", "4"], "4 corrupted of 4 passages"),
        (["--defense", "unicode-normalise"], "unicode-normalise has no certificate"),
        ([], "name one with --defense"),
        (["--defense", "majority-vote", "--retriever", "bm25"], "certified over bm25"),
        (["--defense", "ranmask"], "for classifiers"),
        (["--defense", "majority"], "no defence 'majority'"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    here: Path, more: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, rag(here, *more))
    assert done.exit_code == 2, done.output
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_needs_its_own_certificate(here: Path) -> None:
    words = ["certify", "--target", str(here / "bert"), *CPU]
    done = CliRunner().invoke(cli, [*words, "--defense", "ranmask"])
    assert done.exit_code == 2
    assert "name its labelled data with --data" in done.stderr
    done = CliRunner().invoke(
        cli, [*words, "--data", str(here / "set.csv"), "--defense", "majority-vote"]
    )
    assert done.exit_code == 2
    assert "for RAG pipelines" in done.stderr


def test_an_attack_that_breaks_a_certificate_is_an_error() -> None:
    check_bound({"a": True, "b": False}, {"a": True, "b": False, "c": False})
    with pytest.raises(RuntimeError, match=r"1 certified items were broken .* such as a"):
        check_bound({"a": True}, {"a": False})
