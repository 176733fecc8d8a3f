"""``evaluate`` from specs to a run directory, with real small models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rag_corpus import write_corpus
from tiny import save_tiny

from robustlab.errors import UserError
from robustlab.evaluation import evaluate
from robustlab.runs import RunDirectory

CPU = {"device": "cpu", "dtype": "fp32"}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with corpora, labelled data, and tiny models."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_corpus(folder / "towns")
    write_corpus(folder / "unanswered", answers=False)
    write_corpus(folder / "goldless", gold=False)
    save_tiny("t5", folder / "t5")
    save_tiny("bert", folder / "bert")
    rows = [
        {"id": str(number), "text": text, "label": label}
        for number, (text, label) in enumerate(
            [("a good book", 2), ("a bad film", 0), ("the house", 1), ("very bad", 0)]
        )
    ]
    (folder / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "binary.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:2]))
    (folder / "short.txt").write_text(
        "--- prompt ---\n{passages}\nquestion {question}\n--- passage ---\n{text}\n"
    )
    return folder


def on_disk(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    run = RunDirectory.open(folder)
    assert run.summary is not None
    return run.manifest, run.outcomes(), run.summary


def test_rag(here: Path, tmp_path) -> None:
    seen: list[tuple[int, int]] = []
    result = evaluate(
        target_spec="rag",
        corpus=str(here / "towns"),
        generator=str(here / "t5"),
        prompt=str(here / "short.txt"),
        top_k=3,
        max_new_tokens=8,
        out=tmp_path / "run",
        progress=lambda done, total: seen.append((done, total)),
        **CPU,
    )
    assert result.kind == "rag"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    manifest, outcomes, summary = on_disk(result.folder)
    assert summary == result.summary
    for name, estimate in result.estimates.items():
        assert summary[name]["n"] == estimate.n
    assert {
        "exact_match", "f1", "bleu", "rougeL", "perplexity", "refusal_rate", "recall@1",
        "recall@10", "success@5", "ndcg@10", "mrr", "groundedness", "hallucination_rate",
        "question_passage_relevance", "answer_question_relevance",
    } <= summary.keys()  # fmt: skip
    assert summary["items"] == 4
    # MiniLM finds the passages of these questions.
    assert summary["recall@10"]["value"] == 1
    assert summary["mrr"]["value"] > 0.5
    assert summary["perplexity"]["value"] > 1

    assert [outcome["id"] for outcome in outcomes] == ["q1", "q2", "q3", "q4"]
    first = outcomes[0]
    assert first["question"] == "who built the old bridge?"
    assert first["gold"] == ["bridge"]
    assert first["retrieved"][0] == "bridge"
    assert len(first["retrieved"]) == 10
    assert set(first["in_context"]) <= set(first["retrieved"][:3])
    assert 0 < first["confidence"] <= 1

    assert manifest["command"] == "evaluate"
    assert manifest["arguments"]["top_k"] == 3
    assert "progress" not in manifest["arguments"]
    assert manifest["data"]["split"] == "test"
    assert len(manifest["data"]["fingerprint"]) == 64
    assert len(manifest["data"]["corpus"]["fingerprint"]) == 64
    assert len(manifest["target"]["fingerprint"]) == 64
    assert "{question}" in manifest["target"]["prompt"]["text"]


def test_generator_with_gold_passages(here: Path, tmp_path) -> None:
    result = evaluate(
        target_spec=str(here / "t5"),
        data_spec=str(here / "towns"),
        prompt=str(here / "short.txt"),
        max_new_tokens=8,
        limit=2,
        seed=1,
        out=tmp_path / "run",
        **CPU,
    )
    assert result.kind == "seq2seq"
    manifest, outcomes, summary = on_disk(result.folder)
    assert len(outcomes) == summary["items"] == 2
    assert manifest["data"]["available"] == 4
    for outcome in outcomes:
        assert outcome["in_context"] == outcome["gold"][: len(outcome["in_context"])]
        assert outcome["in_context"]
    assert "recall@1" not in summary


@pytest.mark.parametrize("spec", ["bm25", "builtin:retriever"])
def test_retriever(here: Path, tmp_path, spec: str) -> None:
    result = evaluate(target_spec=spec, corpus=str(here / "towns"), out=tmp_path / "run", **CPU)
    assert result.kind == "retriever"
    manifest, outcomes, summary = on_disk(result.folder)
    assert manifest["target"]["spec"] == spec
    assert len(manifest["target"]["fingerprint"]) == 64
    assert outcomes[0]["gold_rank"] == 1
    assert summary["success@10"]["value"] == 1


def test_classifier(here: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = evaluate(target_spec=str(here / "bert"), data_spec=str(here / "labelled.jsonl"), **CPU)
    assert result.folder.parent == Path("runs")
    manifest, outcomes, summary = on_disk(result.folder)
    assert manifest["data"]["split"] == "all"
    assert summary["accuracy"]["n"] == 4
    assert summary["accuracy[0]"]["n"] == 2
    right = sum(outcome["prediction"] == outcome["truth"] for outcome in outcomes)
    assert summary["accuracy"]["value"] == right / 4


def refused(message: str, **arguments: Any) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(**{**CPU, **arguments})


def test_what_is_refused_leaves_nothing(here: Path, tmp_path) -> None:
    towns, t5, bert = str(here / "towns"), str(here / "t5"), str(here / "bert")
    labelled = str(here / "labelled.jsonl")
    out = tmp_path / "run"
    rag = {"target_spec": "rag", "out": out, "generator": t5}
    refused("name a corpus with --corpus", **rag)
    refused("rag target needs none", corpus=towns, kind="seq2seq", **rag)
    refused("has no split 'dev'", corpus=towns, split="dev", **rag)
    refused("--limit must be at least 1", corpus=towns, limit=0, **rag)
    refused("--top-k must be at least 1", corpus=towns, top_k=0, **rag)
    refused("at least one token", corpus=towns, max_new_tokens=0, **rag)
    refused("states no answers", corpus=str(here / "unanswered"), **rag)
    refused("has a gold passage", corpus=str(here / "goldless"), **rag)
    refused("no prompt 'absent'", corpus=towns, prompt="absent", **rag)
    refused("writes no answers", corpus=towns, **{**rag, "generator": bert})
    refused(
        "--label-column is for labelled data",
        corpus=towns,
        columns={"label_column": "label", "text_column": None},
        **rag,
    )
    refused("--top-k must be at least 1", target_spec="bm25", corpus=towns, top_k=0, out=out)
    refused("name a corpus", target_spec="bm25", out=out)
    refused("name a corpus", target_spec=t5, out=out)
    refused("states no answers", target_spec=t5, corpus=str(here / "unanswered"), out=out)
    refused("with --data", target_spec=bert, corpus=towns, out=out)
    refused(
        "--question-column is for a corpus",
        target_spec=bert,
        data_spec=labelled,
        columns={"question_column": "q"},
        out=out,
    )
    refused("3 classes apart", target_spec=bert, data_spec=str(here / "binary.jsonl"), out=out)
    assert not out.exists()


def test_a_folder_that_holds_a_run_is_refused(here: Path, tmp_path) -> None:
    arguments = {"target_spec": "bm25", "corpus": str(here / "towns"), "out": tmp_path}
    evaluate(**arguments)
    before = (tmp_path / "manifest.json").read_bytes()
    refused("already holds a run", **arguments)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_questions_of_one_source_over_the_passages_of_another(here: Path, tmp_path) -> None:
    wider = write_corpus(tmp_path / "wider")
    extra = {"_id": "new", "title": "Moat", "text": "The moat was dug by hand."}
    with (wider / "corpus.jsonl").open("a") as file:
        file.write(json.dumps(extra) + "\n")
    result = evaluate(
        target_spec="bm25",
        corpus=str(wider),
        data_spec=str(here / "towns"),
        out=tmp_path / "run",
    )
    manifest, _, summary = on_disk(result.folder)
    assert manifest["data"]["name"] == "towns"
    assert manifest["data"]["corpus"]["passages"] == 13
    assert summary["recall@10"]["n"] == 4
