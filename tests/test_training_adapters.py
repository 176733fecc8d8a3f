"""Adapters: few parameters are trained, and what is saved answers as what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training_tiny import tiny_task

from robustlab.errors import UserError
from robustlab.models.load import load_target
from robustlab.models.target import Gradient, Gradients, Predict, Predictions
from robustlab.training.adapters import PEFT_KINDS, is_mergeable
from robustlab.training.embedding import Plain
from robustlab.training.trainer import TrainPlan, make_accelerator, train

TEXTS = ("a good film", "the old book was dark in the town", "very short")


@pytest.mark.parametrize("kind", [None, *PEFT_KINDS])
def test_what_is_saved_answers_as_what_was_trained(tmp_path: Path, kind: str | None) -> None:
    task = tiny_task(tmp_path, peft=kind, dropout=False)
    before = {name: p.detach().clone() for name, p in task.module.named_parameters()}
    trained = task.trainable()
    total = sum(p.numel() for p in task.module.parameters())
    count = sum(p.numel() for p in trained.values())
    assert count == total if kind is None else 0 < count < 0.6 * total
    assert any("classifier" in name for name in trained)
    accelerator = make_accelerator("cpu")
    plan = TrainPlan(epochs=2, learning_rate=1e-2)
    train(task, Plain(), plan, tmp_path / "run", accelerator=accelerator)
    moved = {n for n, p in task.module.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert moved <= set(trained)
    task.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "adapter").is_dir() is not is_mergeable(task.module)
    loaded = load_target(str(tmp_path / "saved"), device="cpu", dtype="fp32")
    found = loaded.answer(Predict(TEXTS))
    live = task.perturbed(task.collate([0, 1, 2]), TEXTS)
    with torch.no_grad():
        expected = task.loss(live)[1].softmax(-1).numpy()
    assert isinstance(found, Predictions)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    slopes = loaded.answer(Gradient(TEXTS, (0, 1, 2)))
    assert isinstance(slopes, Gradients)
    assert all(np.abs(item.gradient).max() > 0 for item in slopes.items)
    copied = task.target().answer(Predict(TEXTS))
    assert isinstance(copied, Predictions)
    np.testing.assert_allclose(copied.probabilities, expected, atol=0.03)


def test_an_adapter_begins_as_the_model_that_it_adapts(tmp_path: Path) -> None:
    plain = tiny_task(tmp_path, dropout=False)
    plain.module.eval()
    expected = plain.loss(plain.collate([0, 1]))[1]
    for kind in ("lora", "ia3", "bitfit", "adapter"):
        task = tiny_task(tmp_path, peft=kind)
        task.module.eval()
        torch.testing.assert_close(task.loss(task.collate([0, 1]))[1], expected)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no --peft magic; there are: lora"):
        tiny_task(tmp_path, peft="magic")


def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    task = tiny_task(tmp_path, peft="adapter")
    task.save(tmp_path / "saved")
    config = tmp_path / "saved" / "adapter" / "bottleneck.json"
    config.write_text(config.read_text(encoding="utf-8").replace("layer.0", "layer.7"))
    with pytest.raises(UserError, match="does not fit its model"):
        load_target(str(tmp_path / "saved"), device="cpu", dtype="fp32")
