"""A tiny classifier, data that it can learn, and a task made of both."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tiny import save_tiny

TELLING = (("bad", "old", "dark"), ("short", "green", "stone"), ("good", "new", "light"))
"""Words that only texts of one class have."""

FILLER = ("the", "a", "film", "book", "town", "river", "was", "very", "in", "on")


def write_data(folder: Path, *, train: int = 48, held: int = 12) -> Path:
    """Texts of three classes that differ by a word; train, validation and test."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = random.Random(0)
    for split, count in (("train", train), ("validation", held), ("test", held)):
        rows = []
        for number in range(count):
            label = number % 3
            words = dice.sample(FILLER, dice.randint(2, 8))
            words.insert(dice.randint(0, len(words)), dice.choice(TELLING[label]))
            rows.append({"id": f"{split}-{number}", "text": " ".join(words), "label": label})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    card = 'name = "tiny"\nlabel_names = ["negative", "neutral", "positive"]\n'
    (folder / "card.toml").write_text(card, encoding="utf-8")
    return folder


def tiny_task(tmp_path: Path, *, model: str = "bert", dropout: bool = True, **plan: Any) -> Any:
    """A task on the CPU; the model and its data are made where they are not there yet."""
    import torch

    from robustlab.training.families import TaskPlan, load_task

    folder, data = tmp_path / model, tmp_path / "data"
    if not folder.exists():
        rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        save_tiny(model, folder, **({} if dropout else rates))
    if not data.exists():
        write_data(data)
    settings = {"batch_size": 8, **plan}
    return load_task(
        "classifier", TaskPlan(str(folder), str(data), torch.device("cpu"), **settings)
    )
