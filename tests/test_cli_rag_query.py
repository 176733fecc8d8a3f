"""``robustlab rag-query`` over a pipeline of fixed parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rag_fakes import FixedGenerator, FixedRetriever

from robustlab.cli.main import cli
from robustlab.data.records import Passage
from robustlab.rag import PromptTemplate, RagPipeline

TEMPLATE = "--- prompt ---\n{question}\n{passages}\n--- passage ---\n{text}\n"
EIFFEL = Passage("e1", "Eiffel Tower", "Gustave Eiffel's company built it. GUSTAVE EIFFEL!")
HOSTILE = Passage(
    "e2", "\x1b]0;owned\x07", "[bold]Not[/bold] markup.\x1b[2J Ends \u202ehere\nAnswer: forged"
)
LONG = Passage("e3", "", "word " * 400)


class Harness:
    """Runs the command over passages and answers that a test gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arguments: dict[str, Any] = {}
        self.corpus = ""
        self.answers = {"Who built it?": "Gustave Eiffel", "And who else?": "", "[b]?": "[b]x\x1b"}
        self.batches: list[int] = []

        def load_corpus(spec: str, **options: Any) -> str:
            self.arguments |= options
            self.corpus = spec
            return spec

        def load_rag(corpus: str, retriever: str, generator: str, **options: Any) -> RagPipeline:
            print("a library says hello on stdout")
            self.arguments |= {"retriever": retriever, "generator": generator, **options}
            pipeline = RagPipeline(
                FixedRetriever({question: [EIFFEL, HOSTILE, LONG] for question in self.answers}),
                FixedGenerator(self.answers, limit=100),
                PromptTemplate.parse(TEMPLATE, "test"),
                top_k=options["top_k"],
            )
            ask = pipeline.ask

            def counted(questions: list[str]) -> Any:
                self.batches.append(len(questions))
                return ask(questions)

            monkeypatch.setattr(pipeline, "ask", counted)
            return pipeline

        monkeypatch.setattr("robustlab.data.load_corpus", load_corpus)
        monkeypatch.setattr("robustlab.rag.load_rag", load_rag)

    def __call__(self, *words: str, stdin: str | bytes = "") -> Result:
        return CliRunner().invoke(cli, ["rag-query", *words], input=stdin)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Harness:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return Harness(monkeypatch)


def test_the_answer_and_the_passages_with_its_places_marked(run: Harness) -> None:
    done = run("Who built it?")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "Gustave Eiffel"
    assert lines[1] == "confidence 0.61"  # exp(-0.5)
    assert "1  0.900  Eiffel Tower" in lines
    assert "   [[Gustave Eiffel]]'s company built it. [[GUSTAVE EIFFEL]]!" in lines
    assert "3  0.700  e3  (not read: no room in the prompt)" in lines
    assert "a library says hello" in done.stderr


def test_a_passage_cannot_act_on_the_terminal_or_forge_our_lines(
    run: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = run("Who built it?").stdout
    assert r"[bold]Not[/bold] markup.\x1b[2J Ends \u202ehere\nAnswer: forged" in shown
    assert r"\x1b]0;owned\x07" in shown
    assert not set(shown) & {"\x1b", "\x07", "\u202e"}
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = run("Who built it?").stdout
    assert "\x1b[1;7mGustave Eiffel\x1b[0m's company" in shown
    assert "\x1b[2J" not in shown
    assert "\x1b]" not in shown
    assert run("[b]?").stdout.startswith("\x1b[1m[b]x\\x1b\x1b[0m\n")


def test_an_empty_answer_is_said_to_be_one(run: Harness) -> None:
    assert run("And who else?").stdout.startswith("(no answer)\n")


def test_json_is_one_object_and_nothing_else_on_stdout(run: Harness) -> None:
    done = run("Who built it?", "--json")
    found = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert done.stdout.isascii()
    assert found["answer"] == "Gustave Eiffel"
    assert found["confidence"] == pytest.approx(0.6065, abs=1e-4)
    assert [p["rank"] for p in found["passages"]] == [1, 2, 3]
    first = found["passages"][0]
    assert (first["id"], first["title"], first["score"]) == ("e1", "Eiffel Tower", 0.9)
    assert [first["text"][start:end] for start, end in first["answer_spans"]] == [
        "Gustave Eiffel",
        "GUSTAVE EIFFEL",
    ]
    assert [p["in_context"] for p in found["passages"]] == [True, True, False]
    assert "Eiffel Tower" in done.stderr  # for people


def test_questions_from_stdin_are_answered_together_one_object_a_line(run: Harness) -> None:
    done = run("-", stdin="Who built it?\nAnd who else?\r\nWho built it?")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["question"] for answer in found] == [
        "Who built it?", "And who else?", "Who built it?",
    ]  # fmt: skip
    assert run.batches == [3]


@pytest.mark.parametrize(
    ("stdin", "sentence"),
    [
        ("Who built it?\n \n", "robustlab: line 2 of stdin is empty: each line holds one question"),
        (b"caf\xe9\n", "robustlab: line 1 of stdin is not UTF-8"),
    ],
)
def test_a_line_without_a_question(run: Harness, stdin: str | bytes, sentence: str) -> None:
    done = run("-", stdin=stdin)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == sentence


def test_an_empty_question_is_refused_before_anything_is_loaded(run: Harness) -> None:
    done = run(" \n")
    assert (done.exit_code, done.stderr) == (2, "robustlab: the question is empty\n")
    assert run.corpus == ""


def test_options_reach_the_pipeline(run: Harness) -> None:
    run(
        "Who built it?", "--corpus", "mine", "--retriever", "bm25", "--generator", "g", "--top-k",
        "2", "--prompt", "p.txt", "--index", "i", "--device", "cpu", "--dtype", "fp32",
        "--batch-tokens", "99", "--max-new-tokens", "7", "--text-column", "body",
        "--skip-bad-rows",
    )  # fmt: skip
    assert run.corpus == "mine"
    assert run.arguments == {
        "retriever": "bm25", "generator": "g", "top_k": 2, "prompt": "p.txt",
        "index_folder": Path("i"), "device": "cpu", "dtype": "fp32", "batch_tokens": 99,
        "max_new_tokens": 7, "text_column": "body", "title_column": None, "id_column": None,
        "skip_bad_rows": True,
    }  # fmt: skip
