"""Inner maximisation in embedding space: the ball, the ascent, and what each method costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_tiny import tiny_task

from robustlab.errors import UserError
from robustlab.training.embedding import Ball, ascend, divergence
from robustlab.training.families import make_method


def ball(size: float = 2.0, *, tokenwise: bool = False) -> Ball:
    mask = torch.tensor([[[0.0], [1.0], [1.0]], [[0.0], [1.0], [0.0]]])
    return Ball(size, mask, width=4, tokenwise=tokenwise)


def test_a_step_stays_in_the_ball_and_off_masked_tokens() -> None:
    own = ball()
    moved = own.step(torch.zeros(2, 3, 4), torch.ones(2, 3, 4), share=5.0)
    # 8 equal coordinates of a vector of length 2, and 4 of one
    assert moved[0, 1].tolist() == pytest.approx([2 / 8**0.5] * 4)
    assert moved[1, 1].tolist() == pytest.approx([1.0] * 4)
    assert moved[:, 0].abs().sum() == 0
    assert moved[1, 2].abs().sum() == 0
    small = own.step(torch.zeros(2, 3, 4), torch.ones(2, 3, 4), share=0.25)
    assert small.norm(dim=(1, 2)).tolist() == pytest.approx([0.5, 0.5])


def test_every_token_has_a_ball_of_its_own_where_asked() -> None:
    moved = ball(tokenwise=True).step(torch.zeros(2, 3, 4), torch.ones(2, 3, 4), share=5.0)
    assert moved[0].norm(dim=-1).tolist() == pytest.approx([0.0, 2.0, 2.0])


def test_the_beginning_is_within_the_ball_and_repeats() -> None:
    own = ball()
    start = own.begin(3)
    assert (start.norm(dim=(1, 2)) <= 2.0).all()
    assert start[0, 0].abs().sum() == 0
    assert torch.equal(start, own.begin(3))
    assert not torch.equal(start, own.begin(4))


def test_ascent_finds_the_corner_of_a_linear_objective() -> None:
    slope = torch.tensor([3.0, 0.0, 0.0, 4.0])
    found = ascend(
        lambda shifts: (shifts * slope).sum(), ball(), ball().begin(0), steps=40, share=0.5
    )
    # the steepest point of the ball: along the slope, divided between two tokens
    expected = slope / 5 * 2 / 2**0.5
    assert found[0, 1].tolist() == pytest.approx(expected.tolist(), abs=0.05)


def test_divergence_by_hand() -> None:
    first = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    second = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    # (0.5 ln 2 + 0.5 ln 2/3) / 2 over the two decisions
    assert divergence(first, second).item() == pytest.approx(0.0719205, abs=1e-6)


@pytest.mark.parametrize("name", ["bert", "roberta", "albert", "deberta-v2"])
def test_a_shift_changes_the_loss_along_its_gradient(tmp_path: Path, name: str) -> None:
    task = tiny_task(tmp_path, model=name)
    task.module.eval()
    batch = task.collate([0, 1, 2, 3])
    plain, _ = task.loss(batch)
    own = Ball.around(task, batch, 0.5)
    zero = torch.zeros((*own.mask.shape[:2], own.width))
    same, _ = task.loss(batch, zero)
    torch.testing.assert_close(same, plain)
    worst = ascend(lambda shifts: task.loss(batch, shifts)[0], own, zero, steps=4, share=0.5)
    attacked, _ = task.loss(batch, worst)
    assert attacked > plain + 0.01
    assert worst[own.mask.expand_as(worst) == 0].abs().sum() == 0
    norms = worst.norm(dim=(1, 2)) / task.embedding_norm()
    assert (norms <= 0.5 + 1e-5).all()


COSTS = {"none": (1, 1), "pgd": (4, 4), "freelb": (3, 3), "smart": (5, 4), "trades": (5, 4)}


@pytest.mark.parametrize("name", COSTS)
def test_what_a_method_costs_is_what_it_says(tmp_path: Path, name: str) -> None:
    task = tiny_task(tmp_path)
    calls = {"forward": 0, "backward": 0, "train": 0}
    plain = task.loss

    def counted(batch: Any, shifts: Any = None) -> Any:
        calls["forward"] += 1
        calls["train"] += task.module.training
        return plain(batch, shifts)

    task.loss = counted

    def backward(loss: torch.Tensor) -> None:
        calls["backward"] += 1
        loss.backward()

    task.module.train()
    method = make_method(name, 0.5, task)
    update = method.update(task, task.collate([0, 1, 2]), backward, seed=0)
    assert (update.forwards, update.backwards) == COSTS[name]
    assert calls["forward"] == update.forwards
    assert not update.loss.requires_grad
    assert all(p.grad is not None for n, p in task.trainable().items() if "word" in n)
    # A search is in eval mode, what trains in train mode; FreeLB searches in all passes.
    expected = {"none": 1, "pgd": 1, "freelb": 0, "smart": 2, "trades": 2}
    assert calls["train"] == expected[name]
    assert task.module.training


def test_freelb_sums_the_gradients_along_the_ascent(tmp_path: Path) -> None:
    task = tiny_task(tmp_path)
    batch = task.collate([0, 1, 2, 3])
    task.module.train()
    method = make_method("freelb", 0.5, task, {"steps": 2})
    method.update(task, batch, lambda loss: loss.backward(), seed=7)
    found = {name: p.grad.clone() for name, p in task.trainable().items() if p.grad is not None}
    task.module.zero_grad()
    task.module.eval()
    own = Ball.around(task, batch, 0.5)
    shifts = own.begin(7)
    for _ in range(2):
        shifts.requires_grad_(True)
        loss, _ = task.loss(batch, shifts)
        (loss / 2).backward()
        assert shifts.grad is not None
        shifts = own.step(shifts.detach(), shifts.grad, 0.75)
    for name, parameter in task.trainable().items():
        if name in found:
            torch.testing.assert_close(found[name], parameter.grad)


def test_a_method_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    task = tiny_task(tmp_path)
    with pytest.raises(UserError, match="does not train a classifier"):
        make_method("continuous", 1.0, task)
    with pytest.raises(UserError, match="must be above 0"):
        make_method("freelb", 0.0, task)
    with pytest.raises(UserError, match="must be above 0"):
        make_method("pgd", -1.0, task)
    with pytest.raises(UserError, match="no method 'magic'"):
        make_method("magic", 1.0, task)
    with pytest.raises(UserError, match="no option 'recipe'; it has: steps"):
        make_method("freelb", 1.0, task, {"recipe": "hotflip"})
    with pytest.raises(UserError, match="at least one step"):
        make_method("pgd", 1.0, task, {"steps": 0})
