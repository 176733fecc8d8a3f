"""Inner maximisation in embedding space: shifts of the input embeddings that no text realises.

A radius is relative to the mean length of the model's input embeddings, so that 1 is about the
distance that replacing one word by an unrelated one moves a text.

References:
    Madry et al. 2018, arXiv:1706.06083 (projected gradient descent)
    Zhu et al. 2020, FreeLB, arXiv:1909.11764
    Jiang et al. 2020, SMART, arXiv:1911.03437
    Zhang et al. 2019, TRADES, arXiv:1901.08573
    Xhonneux et al. 2024, continuous adversarial training, arXiv:2405.15589
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from robustlab.errors import UserError
from robustlab.training.inner import Backward, Update, check_options
from robustlab.training.tasks import Batch, Task

if TYPE_CHECKING:
    import torch

__all__ = [
    "Ball",
    "Consistency",
    "Continuous",
    "Freelb",
    "Memoryless",
    "Pgd",
    "Plain",
    "ascend",
    "divergence",
    "make",
    "searching",
]

Objective: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
"""Shifts (B, T, width) to the scalar that the adversary makes large."""


@contextmanager
def searching(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside the block, train mode after it: models are attacked as they are used."""
    module.eval()
    try:
        yield
        if module.training:
            raise AssertionError("the module left eval mode during the inner maximisation")
    finally:
        module.train()


@dataclass(frozen=True, slots=True)
class Ball:
    """Where the shifts of a batch may lie.

    ``size``: the radius in the embeddings' own unit; ``mask``: (B, T, 1),
    1 where a token may be shifted. With ``tokenwise`` each token's shift lies in a ball of its
    own, else those of a text together do (the Frobenius norm, as in FreeLB).
    """

    size: float
    mask: torch.Tensor
    width: int
    tokenwise: bool = False

    @classmethod
    def around(cls, task: Task, batch: Batch, radius: float, *, tokenwise: bool = False) -> Ball:
        """The ball of a relative radius around a batch's embeddings."""
        embeddings, mask = task.embeddings(batch)
        size = radius * task.embedding_norm()
        return cls(size, mask.unsqueeze(-1), embeddings.shape[-1], tokenwise)

    def begin(self, seed: int) -> torch.Tensor:
        """Random shifts within the ball, (B, T, width): uniform, then scaled to its inside.

        As in FreeLB: each coordinate is uniform, divided by the root of how many there are, so
        that the norm is below the radius whatever the length of the text.
        """
        import torch

        generator = torch.Generator(self.mask.device).manual_seed(seed)
        shape = (*self.mask.shape[:2], self.width)
        noise = torch.rand(shape, generator=generator, device=self.mask.device) * 2 - 1
        tokens = self.mask.sum(1, keepdim=True).clamp(min=1.0)
        if self.tokenwise:
            tokens = torch.ones_like(tokens)
        return noise * self.mask * (self.size / (tokens * self.width) ** 0.5)

    def project(self, shifts: torch.Tensor) -> torch.Tensor:
        """The nearest point of the ball to each shift."""
        return shifts * (self.size / self.lengths(shifts).clamp(min=1e-30)).clamp(max=1.0)

    def lengths(self, shifts: torch.Tensor) -> torch.Tensor:
        """Norms by text (B, 1, 1), or by token (B, T, 1)."""
        import torch

        dimensions = -1 if self.tokenwise else (1, 2)
        norms: torch.Tensor = torch.linalg.vector_norm(shifts, dim=dimensions, keepdim=True)
        return norms

    def step(self, shifts: torch.Tensor, gradient: torch.Tensor, share: float) -> torch.Tensor:
        """Move along the gradient by a share of the radius, and back into the ball."""
        masked = gradient * self.mask
        direction = masked / self.lengths(masked).clamp(min=1e-30)
        return self.project(shifts + share * self.size * direction).detach()


def ascend(
    objective: Objective, ball: Ball, start: torch.Tensor, *, steps: int, share: float
) -> torch.Tensor:
    """Projected gradient ascent: ``steps`` passes forward and back, weights' gradients left out."""
    import torch

    shifts = start
    for _ in range(steps):
        shifts = shifts.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(shifts), shifts)
        shifts = ball.step(shifts, gradient.float(), share)
    return shifts.detach()


def divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL(first ‖ second) of two sets of logits (N, choices), the mean over N."""
    from torch.nn import functional

    return functional.kl_div(
        second.log_softmax(-1), first.log_softmax(-1), reduction="batchmean", log_target=True
    )


class Memoryless:
    """What methods without memory from epoch to epoch have in common."""

    def begin_epoch(self, task: Task, *, seed: int, epoch: int) -> None:
        """Nothing to prepare."""

    def state(self) -> Mapping[str, Any]:
        """Nothing to remember."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing was remembered."""


@dataclass(frozen=True)
class Plain(Memoryless):
    """Plain fine-tuning, the control."""

    name: str = "none"
    strength: float = 0.0

    def update(self, task: Task, batch: Batch, backward: Backward, *, seed: int) -> Update:
        """One pass on the batch as it is."""
        loss, _ = task.loss(batch)
        backward(loss)
        return Update(loss.detach(), 1, 1)


@dataclass(frozen=True)
class Pgd(Memoryless):
    """Training on the loss at the worst shift that K steps find (Madry et al. 2018)."""

    strength: float
    steps: int = 3
    name: str = "pgd"

    def update(self, task: Task, batch: Batch, backward: Backward, *, seed: int) -> Update:
        """K passes that search in eval mode, and one that trains."""
        ball = Ball.around(task, batch, self.strength)
        with searching(task.module):
            shifts = ascend(
                lambda moved: task.loss(batch, moved)[0],
                ball,
                ball.begin(seed),
                steps=self.steps,
                share=_share(self.steps),
            )
        loss, _ = task.loss(batch, shifts)
        backward(loss)
        return Update(loss.detach(), self.steps + 1, self.steps + 1)


@dataclass(frozen=True)
class Freelb(Memoryless):
    """Training on the mean of the losses along the ascent (Zhu et al. 2020).

    Each pass gives the shift's gradient and the weights' at once, so that K steps of ascent cost
    K passes and no more. All run in eval mode, because each is part of the search.
    """

    strength: float
    steps: int = 3
    name: str = "freelb"

    def update(self, task: Task, batch: Batch, backward: Backward, *, seed: int) -> Update:
        """K passes, each of which moves the shift and trains."""
        ball = Ball.around(task, batch, self.strength)
        shifts = ball.begin(seed)
        share = _share(self.steps)
        total: torch.Tensor | None = None
        with searching(task.module):
            for _ in range(self.steps):
                shifts.requires_grad_(True)
                loss, _ = task.loss(batch, shifts)
                backward(loss / self.steps)
                total = loss.detach() if total is None else total + loss.detach()
                if shifts.grad is None:
                    raise AssertionError("the loss does not depend on the input embeddings")
                shifts = ball.step(shifts, shifts.grad.float(), share)
        assert total is not None
        return Update(total / self.steps, self.steps, self.steps)


@dataclass(frozen=True)
class Consistency(Memoryless):
    """The clean loss plus λ times the divergence that a shift within a radius can cause.

    ``trades``: KL(clean ‖ shifted), Zhang et al. 2019; ``smart``: the symmetric KL, Jiang et al.
    2020. ``strength`` is λ; the ball has ``radius``.
    """

    name: str
    strength: float
    radius: float = 0.3
    steps: int = 2

    def update(self, task: Task, batch: Batch, backward: Backward, *, seed: int) -> Update:
        """One clean pass, K that search, and one that trains together with the clean one."""
        ball = Ball.around(task, batch, self.radius)
        with searching(task.module):
            # With gradients though none is taken: autocast would keep the weights that it casts
            # without them, and later passes would have no gradient.
            reference = task.loss(batch)[1].detach()
            shifts = ascend(
                lambda moved: self._divergence(reference, task.loss(batch, moved)[1]),
                ball,
                ball.begin(seed),
                steps=self.steps,
                share=_share(self.steps),
            )
        clean, logits = task.loss(batch)
        _, moved_logits = task.loss(batch, shifts)
        loss = clean + self.strength * self._divergence(logits, moved_logits)
        backward(loss)
        return Update(loss.detach(), self.steps + 3, self.steps + 2)

    def _divergence(self, clean: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        forward = divergence(clean, moved)
        return forward if self.name == "trades" else forward + divergence(moved, clean)


@dataclass(frozen=True)
class Continuous(Memoryless):
    """Continuous adversarial training of generators (Xhonneux et al. 2024).

    Every prompt token has a ball of its own, the ascent follows the sign of the gradient, and the
    loss on the answers under attack is averaged with the loss on the clean prompts, which the
    authors call utility.
    """

    strength: float
    steps: int = 5
    name: str = "continuous"

    def update(self, task: Task, batch: Batch, backward: Backward, *, seed: int) -> Update:
        """K passes that search in eval mode, one on the shifted and one on the clean prompts."""
        ball = Ball.around(task, batch, self.strength, tokenwise=True)
        with searching(task.module):
            shifts = ascend(
                lambda moved: task.loss(batch, moved)[0],
                _SignBall(ball.size, ball.mask, ball.width, tokenwise=True),
                ball.begin(seed),
                steps=self.steps,
                share=_share(self.steps),
            )
        moved, _ = task.loss(batch, shifts)
        backward(moved / 2)
        clean, _ = task.loss(batch)
        backward(clean / 2)
        loss = (moved.detach() + clean.detach()) / 2
        return Update(loss, self.steps + 2, self.steps + 2)


class _SignBall(Ball):
    """A ball in which steps follow the sign of the gradient."""

    def step(self, shifts: torch.Tensor, gradient: torch.Tensor, share: float) -> torch.Tensor:
        """As the ball's, along the sign."""
        return Ball.step(self, shifts, gradient.sign(), share)


def _share(steps: int) -> float:
    """Length of a step in radii: K of them could cross the ball one and a half times over."""
    return 1.5 / steps


_OPTIONS = {
    "none": set[str](),
    "pgd": {"steps"},
    "freelb": {"steps"},
    "smart": {"steps", "radius"},
    "trades": {"steps", "radius"},
    "continuous": {"steps"},
}


def make(
    name: str, strength: float, task: Task, options: Mapping[str, Any]
) -> Plain | Pgd | Freelb | Consistency | Continuous:
    """An embedding-space method, or the control.

    Args:
        name: ``none``, ``pgd``, ``freelb``, ``smart``, ``trades`` or ``continuous``.
        strength: the relative radius; for ``smart`` and ``trades`` the weight λ.
        task: what it will train.
        options: ``steps`` of the ascent; ``radius`` of ``smart`` and ``trades``.

    Raises:
        UserError: an option that the method does not have, or a value that it does not allow.
    """
    check_options(name, options, _OPTIONS[name])
    if int(options.get("steps", 1)) < 1 or float(options.get("radius", 1.0)) <= 0:
        raise UserError(f"the method {name} needs at least one step and a radius above 0")
    if name == "none":
        return Plain()
    if name == "pgd":
        return Pgd(strength, **options)
    if name == "freelb":
        return Freelb(strength, **options)
    if name == "continuous":
        return Continuous(strength, **options)
    return Consistency(name, strength, **options)
