"""Compressed models: rounded weights that every command can load, and students of teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_tiny import tiny_task

from robustlab.errors import UserError
from robustlab.models.load import load_target
from robustlab.models.target import Predict
from robustlab.training.compress import Taught, kind_of_model, quantize, taught
from robustlab.training.embedding import divergence
from robustlab.training.forgetting import probe
from robustlab.training.poison import _reader


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_task(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(("kind", "levels"), [("int8", 256), ("int4", 16)])
def test_rounded_weights_have_few_levels_and_load_everywhere(
    task: Any, tmp_path: Path, kind: str, levels: int
) -> None:
    pytest.importorskip("torchao")
    task.save(tmp_path / "model")
    quantize(tmp_path / "model", kind, tmp_path / kind)
    whole = load_target(str(tmp_path / "model"), device="cpu", dtype="fp32")
    small: Any = load_target(str(tmp_path / kind), device="cpu", dtype="fp32")
    weight = small.model.bert.encoder.layer[0].intermediate.dense.weight
    assert all(len(row.unique()) <= levels for row in weight[:, :32])
    assert small.fingerprint() != whole.fingerprint()
    texts = Predict(tuple(example.text for example in task.examples))
    moved = np.abs(small.answer(texts).probabilities - whole.answer(texts).probabilities).max()
    assert 0 < moved < (0.05 if kind == "int8" else 0.7)
    card = json.loads((tmp_path / kind / "quantization.json").read_text())
    assert card["packed_bytes"] < card["bytes"]


def test_only_known_kinds_are_rounded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no --quantize int2"):
        quantize(tmp_path, "int2", tmp_path / "out")


def test_a_student_learns_from_labels_and_teacher(task: Any, tmp_path: Path) -> None:
    task.save(tmp_path / "teacher")
    learner: Any = taught(task, str(tmp_path / "teacher"))
    batch = task.collate(range(6))
    task.module.eval()
    own, logits = task.loss(batch)
    # The teacher is the student itself: nothing to learn from it.
    assert learner.loss(batch)[0].item() == pytest.approx(0.5 * own.item(), abs=1e-5)
    embeddings, _ = task.embeddings(batch)
    shifts = torch.ones_like(embeddings)
    moved, shifted_logits = task.loss(batch, shifts)
    expected = 0.5 * moved + 0.5 * divergence(logits, shifted_logits)
    assert learner.loss(batch, shifts)[0].item() == pytest.approx(expected.item(), rel=1e-4)
    assert learner.ids == task.ids
    assert learner.module is task.module


def test_a_teacher_is_of_the_same_kind_and_tokens(task: Any, tmp_path: Path) -> None:
    from tiny import save_tiny

    with pytest.raises(UserError, match="splits texts into other tokens"):
        taught(task, str(save_tiny("roberta", tmp_path / "roberta")))
    with pytest.raises(UserError, match="is a causal"):
        taught(task, str(save_tiny("llama", tmp_path / "llama")))


def test_a_taught_task_is_taken_for_its_student(task: Any) -> None:
    with pytest.raises(TypeError, match="not for a classifier"):
        _reader(Taught(task, tiny_copy(task)))


def tiny_copy(task: Any) -> Any:
    import copy

    return copy.copy(task)


def test_forgetting_is_accuracy_or_what_features_know(task: Any, tmp_path: Path) -> None:
    task.save(tmp_path / "model")
    assert kind_of_model(str(tmp_path / "model")) == "classifier"
    target = load_target(str(tmp_path / "model"), device="cpu", dtype="fp32")
    from robustlab.data.labelled import load_labelled

    own = load_labelled(task.plan.data)
    labels = target.answer(Predict(tuple(one.text for one in own.examples))).labels  # type: ignore[union-attr]
    right = np.mean([one.label == label for one, label in zip(own.examples, labels, strict=True)])
    assert probe(str(tmp_path / "model"), task.plan.data, task.plan) == pytest.approx(right)
    other = tmp_path / "other"
    other.mkdir()
    for split, count in (("train", 60), ("test", 30)):
        rows = [
            {"id": f"{split}{i}", "text": ("red town" if i % 2 else "film book") + " the" * (i % 5),
             "label": i % 2} for i in range(count)
        ]  # fmt: skip
        (other / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (other / "card.toml").write_text('name = "o"\nlabel_names = ["texts", "places"]\n')
    assert probe(str(tmp_path / "model"), str(other), task.plan) > 0.9
