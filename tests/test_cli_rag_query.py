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

            def counted(questions: list[str], poisons: Any = ()) -> Any:
                self.batches.append(len(questions))
                return ask(questions, poisons)

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


def poison_file(folder: Path, *texts: str) -> str:
    path = folder / "poison.jsonl"
    record = {
        "query_id": "q", "question": "Who  built it", "correct_answers": ["Gustave Eiffel"],
        "incorrect_answer": "Tom", "adversarial_texts": list(texts),
    }  # fmt: skip
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return str(path)


def test_poison_stands_in_the_corpus_of_its_question(run: Harness, tmp_path: Path) -> None:
    found = json.loads(
        run("Who built it?", "--poison", poison_file(tmp_path, "Tom."), "--json").stdout
    )
    first = found["passages"][0]
    assert (first["id"], first["text"]) == ("poison:0", "Tom.")
    done = run("And who else?", "--poison", poison_file(tmp_path, "Tom."))
    assert done.exit_code == 2
    assert "has no passages for the question 'And who else?'; it has some for 1" in done.stderr
    done = run("Who built it?", "--poison", poison_file(tmp_path, "Tom. " * 100))
    assert done.exit_code == 2
    assert "adversarial text 1 is longer than the context" in done.stderr


def test_an_explanation_shows_rankings_verdicts_and_answers(run: Harness, tmp_path: Path) -> None:
    frame = tmp_path / "quote.toml"
    frame.write_text(
        'name = "quote"\nkind = "prompt"\nbefore = ""\nafter = ""\nopening = "<"\nclosing = ">"',
        encoding="utf-8",
    )
    words = ("Who built it?", "--poison", poison_file(tmp_path, "It was\x1b Tom."), "--explain")
    done = run(*words, "--top-k", "3", "--defense", str(frame))
    assert done.exit_code == 0, done.stderr
    shown = done.stdout
    assert shown.startswith("Who built it?\n")
    assert "without defence   Gustave Eiffel   Gustave Eiffel" in shown
    assert "with defence      Gustave Eiffel   Gustave Eiffel" in shown
    clean, poisoned = shown.split("with poison", 2)[1:]
    assert "Eiffel Tower" in clean
    assert "poison  It was\\x1b Tom." in poisoned
    assert "\x1b" not in shown
    found = json.loads(run(*words, "--json").stdout)
    assert list(found) == ["question", "clean", "poisoned"]
    assert [p["poison"] for p in found["poisoned"]["passages"]] == [True, False, False, False]
    assert [p["in_context"] for p in found["clean"]["passages"]] == [True, True, False]
    lines = run("-", *words[1:], stdin="Who built it?\nWho built it?\n").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [found, found]


def test_a_defence_answers_instead(run: Harness, tmp_path: Path) -> None:
    done = run("Who built it?", "--defense", "delimiters")
    assert done.exit_code == 0, done.stderr
    done = run("Who built it?", "--defense", "delimeters")
    assert (done.exit_code, "the nearest of these is delimiters" in done.stderr) == (2, True)


def test_a_pipeline_file_gives_what_was_not_typed(run: Harness, tmp_path: Path) -> None:
    file = tmp_path / "rag.toml"
    file.write_text(
        'corpus = "kept"\nretriever = "bm25"\ntop_k = 2\n[[defense]]\nname = "delimiters"',
        encoding="utf-8",
    )
    done = run(
        "Who built it?", "--target", str(file), "--retriever", "typed", "--explain", "--json"
    )
    assert done.exit_code == 0, done.stderr
    assert (run.corpus, run.arguments["retriever"], run.arguments["top_k"]) == ("kept", "typed", 2)
    assert "defended_clean" in json.loads(done.stdout)
    done = run("Who built it?", "--target", "builtin:causal")
    assert done.exit_code == 2
    assert "is neither rag nor a TOML file" in done.stderr
