"""The outer loop: resumes to the same weights, stops at NaN, halves what does not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from training_tiny import tiny_task

from robustlab.errors import UserError
from robustlab.training.embedding import Plain, searching
from robustlab.training.families import make_method
from robustlab.training.inner import Update
from robustlab.training.tasks import bucketed
from robustlab.training.trainer import CHECKPOINT, TrainPlan, make_accelerator, train

PLAN = TrainPlan(epochs=2, learning_rate=1e-3, checkpoint_every=4)


def run(task: Any, folder: Path, method: Any = None, plan: TrainPlan = PLAN, **more: Any) -> Any:
    accelerator = make_accelerator("cpu")
    return train(task, method or Plain(), plan, folder, accelerator=accelerator, **more)


def weights(task: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in task.module.named_parameters()}


class KilledError(Exception):
    pass


class Dying:
    """A method that is killed at one of its updates."""

    def __init__(self, method: Any, at: int) -> None:
        self._method, self._left = method, at
        self.name, self.strength = method.name, method.strength
        self.begin_epoch, self.state = method.begin_epoch, method.state
        self.restore = method.restore

    def update(self, *args: Any, **named: Any) -> Update:
        self._left -= 1
        if self._left < 0:
            raise KilledError
        update: Update = self._method.update(*args, **named)
        return update


@pytest.mark.parametrize(
    ("method", "at"),
    # Ten updates in two epochs; augment dies between them, where what is made once must be kept.
    [("none", 3), ("freelb", 5), ("pgd", 9), ("smart", 6), ("augment", 5), ("mixed", 7)],
)
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, method: str, at: int) -> None:
    whole = tiny_task(tmp_path, limit_train=40)
    made = make_method(method, 0.5, whole)
    expected = run(whole, tmp_path / "whole", made)
    broken = tiny_task(tmp_path, limit_train=40)
    with pytest.raises(KilledError):
        run(broken, tmp_path / "broken", Dying(made, at))
    resumed = tiny_task(tmp_path, limit_train=40)
    torch.manual_seed(123)  # what the process drew before does not matter
    result = run(resumed, tmp_path / "broken", make_method(method, 0.5, resumed))
    assert result.updates == expected.updates == 10
    assert result.epochs == expected.epochs
    assert (result.forwards, result.backwards) == (expected.forwards, expected.backwards)
    mine, theirs = weights(resumed), weights(whole)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_it_learns_and_keeps_the_number_of_updates_of_the_control(tmp_path: Path) -> None:
    plan = TrainPlan(epochs=8, learning_rate=1e-2)
    control, robust = tiny_task(tmp_path, dropout=False), tiny_task(tmp_path)
    plain = run(control, tmp_path / "none", plan=plan)
    freelb = run(robust, tmp_path / "freelb", make_method("freelb", 0.3, robust), plan=plan)
    assert plain.updates == freelb.updates == 48
    assert (plain.forwards, freelb.forwards) == (48, 3 * 48)
    assert plain.epochs[-1].loss < 0.8 * plain.epochs[0].loss
    assert {"accuracy", "robust_accuracy"} == set(plain.epochs[0].measures)
    assert plain.peak_bytes > 2**20


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    moments = []
    for micro in (None, 3):
        task = tiny_task(tmp_path, limit_train=8, dropout=False)
        run(task, tmp_path / f"{micro}", plan=TrainPlan(epochs=1, micro_batch=micro))
        saved = load_file(tmp_path / f"{micro}" / CHECKPOINT)
        # After one update a tenth of the (clipped) gradient.
        moments.append({name: t for name, t in saved.items() if name.startswith("moment.exp_avg.")})
    assert len(moments[0]) > 20
    for name, expected in moments[0].items():
        torch.testing.assert_close(moments[1][name], expected, atol=1e-7, rtol=1e-3)


class Hungry(Plain):
    """Runs out of memory with more than three items."""

    def update(self, task: Any, batch: Any, backward: Any, *, seed: int) -> Update:
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().update(task, batch, backward, seed=seed)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(tmp_path: Path) -> None:
    task = tiny_task(tmp_path)
    result = run(task, tmp_path / "out", Hungry())
    assert result.micro_batch == 2
    assert (result.updates, result.examples) == (12, 96)


def test_no_memory_for_one_example_is_said(tmp_path: Path) -> None:
    class Starving(Plain):
        def update(self, *args: Any, **named: Any) -> Update:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="one example"):
        run(tiny_task(tmp_path), tmp_path / "out", Starving())


class Diverging(Plain):
    """The loss is not a number from an update on."""

    def update(self, task: Any, batch: Any, backward: Any, *, seed: int) -> Update:
        update = super().update(task, batch, backward, seed=seed)
        task.count = getattr(task, "count", 0) + 1
        if task.count == 8:
            task.failed = [task.ids[row] for row in batch.rows]
            return Update(update.loss * math.nan, 1, 1)
        return update


def test_a_loss_that_is_not_finite_stops_with_update_and_ids(tmp_path: Path) -> None:
    task = tiny_task(tmp_path)
    with pytest.raises(UserError, match="at update 8") as caught:
        run(task, tmp_path / "out", Diverging())
    assert all(key in str(caught.value) for key in task.failed)
    good = tiny_task(tmp_path)
    result = run(good, tmp_path / "out")  # the checkpoint that was kept is one to go on from
    assert result.updates == 12
    assert all(torch.isfinite(value).all() for value in weights(good).values())


def test_weights_written_by_anybody_else_are_noticed(tmp_path: Path) -> None:
    class Meddling(Plain):
        def update(self, task: Any, batch: Any, backward: Any, *, seed: int) -> Update:
            update = super().update(task, batch, backward, seed=seed)
            with torch.no_grad():
                next(iter(task.trainable().values())).add_(1e-3)
            return update

    with pytest.raises(AssertionError, match="not what the optimiser left"):
        run(tiny_task(tmp_path), tmp_path / "out", Meddling())


def test_the_search_is_in_eval_mode_and_leaving_it_is_noticed(tmp_path: Path) -> None:
    task = tiny_task(tmp_path)
    task.module.train()
    with searching(task.module):
        assert not any(part.training for part in task.module.modules())
    assert task.module.training
    with pytest.raises(AssertionError, match="eval mode"), searching(task.module):
        task.module.train()


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    run(tiny_task(tmp_path), tmp_path / "out")
    other = tiny_task(tmp_path)
    with pytest.raises(UserError, match="another training: its learning_rate"):
        run(other, tmp_path / "out", plan=TrainPlan(epochs=2, learning_rate=2e-3))
    with pytest.raises(UserError, match="another training: its method"):
        run(other, tmp_path / "out", make_method("pgd", 1.0, other))
    with pytest.raises(UserError, match="another architecture"):
        run(tiny_task(tmp_path, model="roberta"), tmp_path / "out")
    (tmp_path / "out" / CHECKPOINT).write_bytes(b"no safetensors")
    with pytest.raises(UserError, match="no checkpoint"):
        run(other, tmp_path / "out")


def test_patience_takes_the_best_epoch(tmp_path: Path) -> None:
    task = tiny_task(tmp_path)
    measures = iter([0.5, 0.9, 0.7, 0.6, 1.0])
    seen: list[dict[str, torch.Tensor]] = []

    def validate() -> dict[str, float]:
        seen.append(weights(task))
        return {"accuracy": next(measures)}

    task.validate = validate
    plan = TrainPlan(epochs=5, learning_rate=1e-3, patience=2)
    result = run(task, tmp_path / "out", plan=plan)
    assert (result.best_epoch, result.stopped_early, len(result.epochs)) == (1, True, 4)
    mine = weights(task)
    assert all(torch.equal(mine[name], value) for name, value in seen[1].items())


def test_results_are_json(tmp_path: Path) -> None:
    result = run(tiny_task(tmp_path), tmp_path / "out")
    assert json.loads(json.dumps(result.as_json()))["updates"] == 12


def test_buckets_hold_every_row_once_and_pad_little() -> None:
    lengths = [number * 7 % 50 + 1 for number in range(1000)]
    batches = bucketed(lengths, 16, seed=0, epoch=0)
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    assert batches == bucketed(lengths, 16, seed=0, epoch=0)
    assert batches != bucketed(lengths, 16, seed=0, epoch=1)
