"""A dozen passages of the words that the tiny generators know, and questions on them."""

from __future__ import annotations

import json
from pathlib import Path

_SUBJECTS = {
    "bridge": "The old bridge of the north town was built by the first queen.",
    "river": "The long river is green in the north and blue in the south.",
    "film": "The bad film was made in a dark house.",
    "book": "The last book of the king was very short and very good.",
    "tree": "A tree stood on the road to the south town.",
    "stone": "The red stone was not in the water.",
    "light": "The light of the new road was blue.",
    "house": "The king had a house of red stone in the south.",
    "queen": "The queen saw the river when the light was dark.",
    "town": "The new town had a long name.",
    "water": "The water of the town was green.",
    "road": "The short road ran north to the river.",
}

_QUESTIONS = (
    ("q1", "who built the old bridge?", ["the first queen", "queen"], ["bridge"]),
    ("q2", "where is the river green?", ["in the north"], ["river"]),
    ("q3", "what was made in a dark house?", ["the bad film"], ["film"]),
    ("q4", "what stood on the road to the south?", ["a tree"], ["tree", "road"]),
)


def write_corpus(folder: Path, *, answers: bool = True, gold: bool = True) -> Path:
    """A BEIR folder with one split, ``test``."""
    (folder / "qrels").mkdir(parents=True)
    passages = [
        {"_id": name, "title": name.capitalize(), "text": text} for name, text in _SUBJECTS.items()
    ]
    questions = [
        {"_id": key, "text": text, "answers": stated if answers else []}
        for key, text, stated, _ in _QUESTIONS
    ]
    score = int(gold)
    qrels = [f"{key}\t{name}\t{score}" for key, *_, names in _QUESTIONS for name in names]
    _lines(folder / "corpus.jsonl", [json.dumps(row) for row in passages])
    _lines(folder / "queries.jsonl", [json.dumps(row) for row in questions])
    _lines(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", *qrels])
    return folder


def _lines(file: Path, lines: list[str]) -> None:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
