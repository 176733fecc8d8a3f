"""The built-in models through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from robustlab.cli.main import cli

PASSAGES = {
    "b1": "The stone bridge of Oldham was built by {builder} in 1843 after a fire.",
    "b2": "Oldham has a market on Fridays, where farmers sell cheese and wool.",
    "b3": "The lighthouse on the cape was painted red by its keeper.",
}


@pytest.mark.parametrize("generator", ["seq2seq", "causal"])
def test_the_answer_follows_the_passage(generator: str, tmp_path: Path) -> None:
    answers = []
    for builder in ("Anna Bergman", "Peter Stone"):
        folder = tmp_path / builder.replace(" ", "")
        folder.mkdir()
        rows = [
            {"_id": key, "title": "", "text": text.format(builder=builder)}
            for key, text in PASSAGES.items()
        ]
        (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        done = CliRunner().invoke(
            cli,
            ["rag-query", "Who built the stone bridge of Oldham?", "--corpus", str(folder),
             "--generator", f"builtin:{generator}", "--device", "cpu", "--json"],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert found["passages"][0]["id"] == "b1"
        assert 0 < found["confidence"] <= 1
        answers.append(found["answer"])
    assert "Bergman" in answers[0]
    assert "Stone" in answers[1]
